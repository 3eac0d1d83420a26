"""The side network: a stem on the pixels, then one projection, fusion and side block for every tapped frozen block.

It consumes the frozen tokens as they come, so that no list of layers ever exists. Batch, number of frames and frame
size are free: the position table is resampled when the grid differs from the one the network was made for.

Source: Side4Video, arXiv:2311.15769, "Side4Video". We differ in the stem's arithmetic only: the (3, p, p) convolution
runs as one image convolution with three times the channels and a sum over time, which needs no video layout.
Shapes: R = 3S, what a frame contributes to its neighbours and itself; P, the numbers of a patch's pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.errors import ConfigError
from side4video.side.block import PLAIN, BlockRuns, SideBlock
from side4video.side.fusion import NormedTokens, Projection, fuse, shift_class_tokens
from side4video.side.init import initialise
from side4video.side.kernels import computing_dtype, has_kernels, linear
from side4video.side.norms import apply_norm, make_norm
from side4video.side.offload import TokenStore
from side4video.side.recompute import SLICE_FRAMES, Recompute, Run, Sliced, run_plain
from side4video.side.spec import SideSpec, resolve_taps

STEM_FRAMES = 3
MemoryMode = Literal["fast", "balanced", "lean", "smallest"]


class FrozenTokens(Protocol):
    """What the network reads of a frozen block: all its tokens, prefix tokens first, then patches row by row."""

    @property
    def tokens_BTAD(self) -> Tensor: ...
    @property
    def num_prefix(self) -> int: ...
    @property
    def has_class_token(self) -> bool: ...
    @property
    def grid_YX(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class ProjectedTokens:
    """A frozen block's tokens behind one side network's projection, which looks at each frame by itself: where many
    windows hold the same frames, this is made once (`SideNetwork.project`) and takes the place of `FrozenTokens`."""

    patches_BTNS: Tensor
    class_BTS: Tensor
    grid_YX: tuple[int, int]


@dataclass(frozen=True)
class StemParts:
    """What the stem's convolution makes of each frame by itself (`Stem.parts`), in the place of the pixels."""

    parts_BTNR: Tensor


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of a frozen block stand; the same for all blocks of a backbone."""

    num_prefix: int
    has_class_token: bool
    grid_YX: tuple[int, int]


@dataclass(frozen=True)
class _How:
    """How the pieces of a stage are run: projection, stem, the stem's norm, and the block."""

    project: Run
    stem: Run
    stem_norm: Callable[[nn.Module, Tensor], Tensor]
    block: Callable[[SideBlock, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SideOutput:
    """`frames_BTS`: one vector a frame, the chosen representation. `patches_BTNS`: the last side block's patches."""

    frames_BTS: Tensor
    patches_BTNS: Tensor


class SideNetwork(nn.Module):
    """The trainable network beside a frozen backbone.

    `depth` and `backbone_width` are the backbone's, `grid_YX` its patch grid at its usual input size, `patch_size` the
    height and width of a patch in pixels.

    `memory` says what training keeps; outputs and gradients are the same. `fast`: everything. `balanced`: only what
    enters each side block and projection; the rest is computed again in the backward pass. `lean`: the same, and what
    is kept waits in host memory. `smallest`: as lean, and the second run of a block keeps nothing inside its parts
    either. What is not tied together by batch norm runs over about `slice_frames` frames at a time.

    Raises:
        ConfigError: taps that the backbone does not have.
    """

    def __init__(
        self,
        spec: SideSpec,
        *,
        backbone_width: int,
        depth: int,
        grid_YX: tuple[int, int],
        patch_size: tuple[int, int],
        memory: MemoryMode = "fast",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if memory not in get_args(MemoryMode):
            raise ConfigError(f"memory must be one of {', '.join(get_args(MemoryMode))}; got {memory!r}")
        self.spec = spec
        self.memory: MemoryMode = memory
        self.make_store: Callable[[], TokenStore] = TokenStore
        self.slice_frames = SLICE_FRAMES
        self.taps = resolve_taps(spec.taps, depth)
        self.grid_YX = grid_YX
        self.carries_token = spec.representation != "gap"
        rows = grid_YX[0] * grid_YX[1] + spec.position_on_class
        self.position = nn.Parameter(torch.empty(rows, spec.width))
        self.extra = ExtraToken(spec.width) if spec.representation == "extra" else None
        self.stem = Stem(spec, patch_size) if spec.stem else None
        self.projections = nn.ModuleList(
            Projection(backbone_width, spec.width, norm_at=spec.projection_norm) for _ in self.taps
        )
        self.blocks = nn.ModuleList(SideBlock(spec) for _ in self.taps)
        self.norm = make_norm(spec) if spec.final_norm else None
        initialise(self, spec, generator)

    def forward(
        self, clip_BTCHW: Tensor | StemParts, layers: Iterable[FrozenTokens] | Iterable[ProjectedTokens]
    ) -> SideOutput:
        """The clip's features, from normalised pixels and the tapped frozen blocks in order of depth.

        Raises:
            ValueError: another number of frozen blocks than taps, or a stem whose patches do not fit the grid.
        """
        side_BTMS: Tensor | StemParts = clip_BTCHW
        for side_BTMS in self.stream(clip_BTCHW, layers):  # noqa: B007
            pass
        assert isinstance(side_BTMS, Tensor)
        return self.finish(side_BTMS)

    def finish(self, side_BTMS: Tensor) -> SideOutput:
        """The features, from the side stream after the last side block."""
        if self.norm is not None:
            side_BTMS = apply_norm(self.norm, side_BTMS)
        patches_BTNS = side_BTMS[:, :, self.carries_token :]
        frames_BTS = side_BTMS[:, :, 0] if self.carries_token else patches_BTNS.mean(2)
        return SideOutput(frames_BTS, patches_BTNS)

    def stream(
        self, clip_BTCHW: Tensor | StemParts, layers: Iterable[FrozenTokens] | Iterable[ProjectedTokens]
    ) -> Iterator[Tensor]:
        """The side stream after each side block, BTMS, before the final norm; patches follow the carried token, if any.

        Raises:
            ValueError: as `forward`.
        """
        layout, tokens_of_taps = self._open(layers)
        position_QS = self._positions(layout.grid_YX)
        how = self._how()
        stream: Tensor | StemParts = clip_BTCHW
        for index, tokens_BTAD in enumerate(tokens_of_taps):
            stream = self._stage(layout, index, how, stream, tokens_BTAD, position_QS)
            yield stream

    @torch.no_grad()
    def project(self, tap: int, layer: FrozenTokens, known: NormedTokens | None = None) -> ProjectedTokens:
        """What the projection of this tap makes of its tokens, without gradients.

        Side networks that look at the same tokens can hand `known` on, empty at first: they are normalised once.
        """
        layout = _Layout(layer.num_prefix, layer.has_class_token, layer.grid_YX)
        projected = self._project(layout, self.taps.index(tap), run_plain, layer.tokens_BTAD, known)
        return ProjectedTokens(*projected, layer.grid_YX)

    def compile_blocks(self, **options: Any) -> None:
        """Let torch.compile make programs of the side blocks; `options` are its.

        A block is one program where it is run whole, and one for each part where it is run part by part.
        """
        for block in self.blocks:
            assert isinstance(block, SideBlock)
            block.compile_parts(**options)

    def _how(self) -> _How:
        """What the memory mode makes of a stage; without gradients there is nothing to keep or to run again."""
        sliced = Sliced(frames=self.slice_frames)
        runs = BlockRuns(sliced, sliced, sliced) if self.memory in ("lean", "smallest") else PLAIN
        if self.memory == "fast" or not torch.is_grad_enabled():
            return _How(run_plain, run_plain, apply_norm, partial(_run_block, runs=runs))
        store = self.make_store() if self.memory in ("lean", "smallest") else None
        keep = Recompute(store=store)
        # behind a norm, the result of the last part is needed for that norm's gradient, so it is not worth slicing
        mlp = sliced if self.spec.norm_order == "pre" else run_plain
        again = runs if self.memory == "smallest" else BlockRuns(mlp=mlp)

        def stem_norm(norm: nn.Module, x_BTNS: Tensor) -> Tensor:
            return keep(partial(apply_norm, norm), (norm,), x_BTNS)

        def block(module: SideBlock, side_BTMS: Tensor, class_BTS: Tensor, position_QS: Tensor) -> Tensor:
            # called as a module, a compiled block is one program; in slices its parts are
            whole = module if runs is PLAIN else module.forward
            first, second = partial(whole, runs=runs), partial(module.for_gradient, runs=again)
            return keep(first, (module,), side_BTMS, class_BTS, position_QS, again=second)

        return _How(Sliced(store=store, frames=self.slice_frames), sliced, stem_norm, block)

    def _open(
        self, layers: Iterable[FrozenTokens] | Iterable[ProjectedTokens]
    ) -> tuple[_Layout, Iterator[Tensor | ProjectedTokens]]:
        """The layout of the frozen tokens, and the tapped layers' tokens one by one, counted."""
        iterator = iter(layers)
        first = next(iterator, None)
        if first is None:
            raise ValueError(f"the side network has {len(self.blocks)} taps; got 0 frozen blocks")
        if isinstance(first, ProjectedTokens):
            return _Layout(0, has_class_token=True, grid_YX=first.grid_YX), self._counted(first, iterator)
        layout = _Layout(first.num_prefix, first.has_class_token, first.grid_YX)
        return layout, self._counted(first.tokens_BTAD, iterator)

    def _counted(
        self, first_BTAD: Tensor | ProjectedTokens, rest: Iterator[FrozenTokens | ProjectedTokens]
    ) -> Iterator[Tensor | ProjectedTokens]:
        yield first_BTAD
        del first_BTAD
        count = 1
        for count, tokens in enumerate(rest, start=2):
            if count > len(self.blocks):
                raise ValueError(f"the side network has {len(self.blocks)} taps; got more frozen blocks than that")
            yield tokens if isinstance(tokens, ProjectedTokens) else tokens.tokens_BTAD
        if count < len(self.blocks):
            raise ValueError(f"the side network has {len(self.blocks)} taps; got {count} frozen blocks")

    def _stage(
        self,
        layout: _Layout,
        index: int,
        how: _How,
        stream: Tensor | StemParts,
        tokens_BTAD: Tensor | ProjectedTokens,
        position_QS: Tensor,
    ) -> Tensor:
        """Projection, fusion and side block of one tap. The stream that enters the first one is the pixels."""
        if isinstance(tokens_BTAD, ProjectedTokens):
            projected_BTNS, class_BTS = tokens_BTAD.patches_BTNS, tokens_BTAD.class_BTS
        else:
            projected_BTNS, class_BTS = self._project(layout, index, how.project, tokens_BTAD)
        if index == 0 or isinstance(stream, StemParts):  # noqa: SIM108 - the types are plain this way
            side_BTMS = self._begin(stream, projected_BTNS, how)
        else:
            side_BTMS = stream
        side_BTMS = self._fuse(side_BTMS, projected_BTNS, class_BTS, first=index == 0)
        del stream, projected_BTNS
        shifted_BTS = shift_class_tokens(class_BTS) if self.spec.shift else class_BTS
        return how.block(self._block(index), side_BTMS, shifted_BTS, position_QS)

    def _block(self, index: int) -> SideBlock:
        block = self.blocks[index]
        assert isinstance(block, SideBlock)
        return block

    def _project(
        self, layout: _Layout, index: int, run: Run, tokens_BTAD: Tensor, known: NormedTokens | None = None
    ) -> tuple[Tensor, Tensor]:
        """Projected patches and class token; a backbone without one lends the frame's mean patch."""
        projection = self.projections[index]
        assert isinstance(projection, Projection)
        last = projection.last()
        # what is known is of all tokens together
        shared = None if not layout.has_class_token else known
        inner = projection.inner if shared is None else partial(projection.inner, known=shared)
        project = partial(run, inner, last, () if last else (projection,))
        if layout.has_class_token:
            # split: its gradient is written once, where each slice would fill a whole tensor of its own
            rest = tokens_BTAD.shape[2] - layout.num_prefix
            class_BT1S, *_, patches_BTNS = project((tokens_BTAD,)).split([1, layout.num_prefix - 1, rest], dim=2)
            # cloned: as a view the one token would keep the whole projection alive
            return patches_BTNS, class_BT1S.squeeze(2).clone()
        patches_BTND = tokens_BTAD[:, :, layout.num_prefix :]
        return project((patches_BTND,)), projection(patches_BTND.mean(2))

    def _begin(self, clip_BTCHW: Tensor | StemParts, projected_BTNS: Tensor, how: _How) -> Tensor | None:
        """The stem's patches, or nothing without a stem."""
        if self.stem is None:
            return None
        if isinstance(clip_BTCHW, StemParts):
            stem_BTNS = self.stem.join(clip_BTCHW.parts_BTNR)
        else:
            stem_BTNS = how.stem(self.stem.convolve, None, (self.stem,), (clip_BTCHW,))
        if stem_BTNS.shape != projected_BTNS.shape:
            raise ValueError(
                f"the stem's patches {tuple(stem_BTNS.shape)} do not fit the frozen patches "
                f"{tuple(projected_BTNS.shape)}; turn the stem off (side.stem=false) for this backbone"
            )
        return how.stem_norm(self.stem.norm, stem_BTNS)

    def _fuse(self, side: Tensor | None, projected_BTNS: Tensor, class_BTS: Tensor, *, first: bool) -> Tensor:
        """The side stream with this tap's tokens in it; before the first tap, the stem's patches or nothing came."""
        if not self.carries_token:
            return fuse(side, projected_BTNS)
        patches_BTNS = side if first or side is None else side[:, :, 1:]
        carried_BTS = None if first or side is None else side[:, :, 0]
        if self.extra is None:
            carried_BTS = fuse(carried_BTS, class_BTS)
        elif carried_BTS is None:
            carried_BTS = self.extra.token.to(class_BTS.dtype).expand_as(class_BTS)
        return torch.cat([carried_BTS.unsqueeze(2), fuse(patches_BTNS, projected_BTNS)], dim=2)

    def _positions(self, grid_YX: tuple[int, int]) -> Tensor:
        """Position rows for the class token, the carried token and the patches of this grid."""
        has_row = self.spec.position_on_class
        patches_NS = self.position[has_row:]
        if grid_YX != self.grid_YX:
            patches_NS = resample_positions(patches_NS, self.grid_YX, grid_YX)
        zeros_1S = patches_NS.new_zeros(1, patches_NS.shape[1])
        class_1S = self.position[:1] if has_row else zeros_1S
        carried = [zeros_1S] if self.carries_token else []
        return torch.cat([class_1S, *carried, patches_NS])


class ExtraToken(nn.Module):
    """A learned token that the side stream carries in every frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(width))


class Stem(nn.Module):
    """3D patch convolution of the pixels, kernel (3, p, p), stride (1, p, p), zero padding in time; then the norm."""

    def __init__(self, spec: SideSpec, patch_size: tuple[int, int]) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = nn.Parameter(torch.empty(spec.width, 3, STEM_FRAMES, *patch_size))
        self.bias = nn.Parameter(torch.empty(spec.width))
        bound = 1 / math.sqrt(3 * STEM_FRAMES * patch_size[0] * patch_size[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        self.norm = make_norm(spec)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """BTCHW pixels to BTNS patches."""
        return apply_norm(self.norm, self.convolve(clip_BTCHW))

    def convolve(self, clip_BTCHW: Tensor) -> Tensor:
        """The patches before the norm."""
        return self.join(self.parts(clip_BTCHW))

    def parts(self, clip_BTCHW: Tensor) -> Tensor:
        """What each frame contributes to its next, own and previous frame, R = 3S: one image convolution."""
        kernels = self.weight.transpose(1, 2).transpose(0, 1).flatten(0, 1)
        if computing_dtype(clip_BTCHW) == torch.bfloat16 and has_kernels(clip_BTCHW, torch.bfloat16):
            # three quarters of the time of the convolution
            patches_BTNP = to_patches(clip_BTCHW.to(torch.bfloat16), self.patch_size)
            return linear(patches_BTNP, kernels.flatten(1), None)
        parts_IRYX = F.conv2d(clip_BTCHW.flatten(0, 1), kernels, stride=self.patch_size)
        return parts_IRYX.flatten(2).transpose(1, 2).unflatten(0, tuple(clip_BTCHW.shape[:2]))

    def join(self, parts_BTNR: Tensor) -> Tensor:
        """The patches before the norm, from what their frames and the neighbours contribute."""
        to_next, own, to_previous = parts_BTNR.chunk(3, -1)
        patches_BTNS = own + F.pad(to_next[:, :-1], (0, 0, 0, 0, 1, 0)) + F.pad(to_previous[:, 1:], (0, 0, 0, 0, 0, 1))
        # added by hand, so it must follow the precision that autocast chose for the convolution
        return patches_BTNS + self.bias.to(patches_BTNS.dtype)


def to_patches(clip_BTCHW: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """The pixels of each patch in the order of a convolution's weights, row by row; what fills no patch is cut off."""
    height, width = patch_size
    rows, columns = clip_BTCHW.shape[3] // height, clip_BTCHW.shape[4] // width
    whole_BTCHW = clip_BTCHW[..., : rows * height, : columns * width]
    parts_BTCYHXW = whole_BTCHW.unflatten(4, (columns, width)).unflatten(3, (rows, height))
    return parts_BTCYHXW.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)


def _run_block(
    block: SideBlock, side_BTMS: Tensor, class_BTS: Tensor, position_QS: Tensor, *, runs: BlockRuns
) -> Tensor:
    return block(side_BTMS, class_BTS, position_QS, runs)


def resample_positions(position_NS: Tensor, from_YX: tuple[int, int], to_YX: tuple[int, int]) -> Tensor:
    """A position table for another grid, by bicubic interpolation in float32."""
    table_1SYX = position_NS.float().T.unflatten(1, from_YX).unsqueeze(0)
    resampled_1SYX = F.interpolate(table_1SYX, size=to_YX, mode="bicubic", align_corners=False, antialias=False)
    return resampled_1SYX.flatten(2).squeeze(0).T.to(position_NS.dtype)
