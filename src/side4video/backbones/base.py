"""The wrapper that freezes an image model and streams it.

`FrozenBackbone` owns a trunk (see `trunk.py`): it switches off gradients and training mode, casts the weights once, and
runs block after block, handing each tapped block's tokens to the caller before it goes on. It keeps no list, so the
memory of a pass is one layer's tokens whatever the depth.

Shapes: A = P + N, all tokens of a frame, prefix tokens first, patches row by row. E is the width that `finish` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from side4video.backbones.block_weights import BlockWeights, RestingWeights
from side4video.backbones.freezing import cast, content_hash, frozen_arithmetic
from side4video.backbones.quantised import Quantisation, check_quantisation
from side4video.backbones.run_blocks import blocks_of, run_blocks
from side4video.backbones.sharded import PlannedShards, ShardedBlocks
from side4video.backbones.trunk import ImageTrunk, LayerTokens, Preprocessing
from side4video.errors import BackboneError


@final
class FrozenBackbone(nn.Module):
    """A frozen image model that yields the tokens of its blocks one by one.

    The trunk belongs to this object from here on: its parameters stop requiring gradients, it stays in eval mode
    through any `train()`, and its weights are cast to `precision` (`None` leaves them). `name` is what a run stores to
    find it again; `weights_hash` is their `content_hash`, where it was taken before something was resampled.

    `quantise` and `stream_weights` are of the blocks (see `BlockWeights`), which the trunk must then have as modules:
    `trunk.block(index)`; so is `shard`, the number of processes that they are spread over (see `ShardedBlocks`), each
    part at once to `device`, where the rest must follow.

    Raises:
        BackboneError: when the trunk lacks a member of `ImageTrunk`, or blocks where they are needed; `shard` together
            with one of the other two.
    """

    trunk: ImageTrunk

    def __init__(
        self,
        trunk: nn.Module,
        *,
        name: str,
        precision: torch.dtype | None = None,
        weights_hash: str | None = None,
        quantise: Quantisation = "none",
        stream_weights: bool = False,
        shard: int = 1,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        check_quantisation(quantise)
        if shard > 1 and (stream_weights or quantise != "none"):
            raise BackboneError("shard does not go with quantise or stream_weights: choose one of the three")
        if not isinstance(trunk, ImageTrunk):
            raise BackboneError(
                f"backbone {name!r}: a trunk must be an nn.Module with the members of ImageTrunk, "
                f"got {type(trunk).__name__}"
            )
        self.name = name
        self.trunk = trunk
        self._hash = weights_hash
        trunk.requires_grad_(requires_grad=False)
        trunk.eval()
        self.quantise: Quantisation = quantise
        self.stream_weights, self.shard = stream_weights, shard
        self._weights: RestingWeights | None = None
        is_meta = self.device.type == "meta"
        if precision is not None and any(p.dtype != precision for p in trunk.parameters() if p.is_floating_point()):
            # a cast may drop bits, and the hash speaks of the weights as they came
            self._hash = self._hash or content_hash(trunk)
            # blocks that are spread are cast one by one, so that no process ever has all of them
            cast(trunk, precision, but=self._blocks("shard needs") if shard > 1 and not is_meta else ())
        if not is_meta:  # shapes alone have no bytes to keep elsewhere
            self.keep_blocks(precision=precision, device=device)

    @property
    def preprocessing(self) -> Preprocessing:
        """The pixels that the model wants."""
        return self.trunk.preprocessing

    @property
    def width(self) -> int:
        """Channels D of a token."""
        return self.trunk.width

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.trunk.depth

    @property
    def num_prefix(self) -> int:
        """Tokens P before the patches."""
        return self.trunk.num_prefix

    @property
    def has_class_token(self) -> bool:
        """Whether token 0 is a class token."""
        return self.trunk.has_class_token

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.trunk.patch_size

    @property
    def post_norm(self) -> bool:
        """Whether the blocks are post-norm, as in EVA's largest CLIP."""
        return self.trunk.post_norm

    @property
    def precision(self) -> torch.dtype:
        """The type of the weights and of the tokens."""
        return next(p.dtype for p in self._module.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._module.parameters()).device

    @property
    def host_bytes(self) -> int:
        """Bytes of weights that wait in host memory for the device."""
        return 0 if self._weights is None else self._weights.host_bytes

    def resident(self) -> list[Tensor]:
        """All tensors that are on the device between two passes."""
        own: list[Tensor] = [*self.parameters(), *self.buffers()]
        if self._weights is None:
            return own
        elsewhere = self._weights.owned()
        return [*(tensor for tensor in own if id(tensor) not in elsewhere), *self._weights.resident()]

    def keep_blocks(
        self,
        *,
        copies: bool | None = None,
        precision: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Let the blocks' weights rest as `quantise`, `stream_weights` and `shard` say; done once, when there are any.

        `copies` is of `BlockWeights`; when it is given, other processes are only pretended. `precision` and `device`
        are of blocks that are spread over processes and have not been cast and moved yet.

        Raises:
            BackboneError: a trunk without `block(index)`, or another number of processes than `shard`.
        """
        if self.quantise == "none" and not self.stream_weights and self.shard == 1:
            return
        blocks = self._blocks("quantise, stream_weights and shard need")
        if self.shard > 1 and copies is not None:
            self._weights = PlannedShards(blocks, processes=self.shard, device=self.device)
            return
        if self.quantise != "none" or self.shard > 1:
            self._hash = self._hash or content_hash(self._module)
        if self.shard > 1:
            target = self.device if device is None else device
            self._weights = ShardedBlocks(blocks, processes=self.shard, precision=precision, device=target)
            return
        self._weights = BlockWeights(
            blocks, quantise=self.quantise, stream=self.stream_weights, device=self.device, copies=copies
        )

    def compile_blocks(self, **options: Any) -> None:
        """Let torch.compile make one program of a block; `options` are its.

        Raises:
            BackboneError: a trunk without `block(index)`.
        """
        for block in self._blocks("compiling needs"):
            block.compile(**options)

    def _blocks(self, who: str) -> list[nn.Module]:
        found = blocks_of(self.trunk)
        if len(found) < self.depth:
            raise BackboneError(
                f"backbone {self.name!r}: {who} a trunk with a method block(index) that gives a block as a module; "
                f"{type(self.trunk).__name__} has none"
            )
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenBackbone:
        """What `to` and its relatives do to every tensor: weights that rest elsewhere stay there.

        Raises:
            BackboneError: another precision for weights that are packed.
        """
        if self._weights is None:
            return super()._apply(fn, recurse)
        probe = fn(torch.empty(0, dtype=self.precision, device=self.device))
        if probe.dtype != self.precision:
            raise BackboneError(
                f"precision: got {probe.dtype} for weights that are quantised, streamed or spread, allowed is the "
                f"{self.precision} that they were packed in; ask create_backbone for another"
            )
        self._weights.leave()
        super()._apply(fn, recurse)
        self._weights.move(fn, probe.device)
        return self

    @property
    def _module(self) -> nn.Module:
        assert isinstance(self.trunk, nn.Module)
        return self.trunk

    def train(self, mode: bool = True) -> FrozenBackbone:  # noqa: ARG002 - the signature is PyTorch's
        """Stays in eval mode whatever `mode` says."""
        return super().train(mode=False)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches for images of this height and width.

        Raises:
            BackboneError: when the model cannot take images of that size.
        """
        return self.trunk.grid(image_size)

    def stream(
        self, clip_BTCHW: Tensor, taps: Sequence[int], *, frame_slice: int | None = None
    ) -> Iterator[LayerTokens]:
        """The outputs of the tapped blocks, in order of depth, each as soon as it is there.

        No gradient is recorded, the caller's gradient mode is untouched between two layers, and blocks after the last
        tap do not run. `frame_slice` runs every block over that many frames at a time. The tokens are in the
        backbone's own precision, also inside autocast, and are never changed afterwards.

        Raises:
            BackboneError: for pixels that are not BTCHW, a size that does not fit, or taps outside the depth.
        """
        wanted = self._check_taps(taps)
        images_ICHW, grid_YX = self._images(clip_BTCHW)
        B, T = clip_BTCHW.shape[:2]
        for index, tokens_IAD in self._run(images_ICHW, last=max(wanted), frame_slice=frame_slice, wanted=wanted):
            if index in wanted:
                yield LayerTokens(
                    layer=index,
                    tokens_BTAD=tokens_IAD.unflatten(0, (B, T)),
                    num_prefix=self.num_prefix,
                    has_class_token=self.has_class_token,
                    grid_YX=grid_YX,
                )

    def features(self, clip_BTCHW: Tensor, *, frame_slice: int | None = None) -> Tensor:
        """The library's own embedding of each frame, shape BTE: what a linear probe or CLIP's text tower sees.

        Raises:
            BackboneError: as `stream`, or when the model has no such embedding.
        """
        images_ICHW, _ = self._images(clip_BTCHW)
        tokens_IAD = images_ICHW
        for _, tokens_IAD in self._run(images_ICHW, last=self.depth - 1, frame_slice=frame_slice, wanted=()):  # noqa: B007
            pass
        return self.finish(tokens_IAD).unflatten(0, tuple(clip_BTCHW.shape[:2]))

    def finish(self, tokens_IAD: Tensor) -> Tensor:
        """The frozen image embedding, shape IE, from the last block's tokens; no gradient is recorded.

        Raises:
            BackboneError: when the model has none.
        """
        with frozen_arithmetic(tokens_IAD):
            return self.trunk.finish(tokens_IAD)

    def take_part(self, taps: Collection[int]) -> None:
        """Where blocks are spread over processes: give the others the parts for a pass as deep as any of `taps`.

        For a process that has no clips of its own while others have; nothing happens where nothing is spread.
        """
        if isinstance(self._weights, ShardedBlocks):
            self._weights.take_part(range(max(taps) + 1))

    def content_hash(self) -> str:
        """sha256 of the weights as they came, before any cast: the same on every device and in every precision."""
        if self._hash is None:
            self._hash = content_hash(self._module)
        return self._hash

    def identity(self) -> dict[str, Any]:
        """What a run stores about its backbone: plain JSON values."""
        return {
            "name": self.name,
            "hash": self.content_hash(),
            "image_size": list(self.preprocessing.image_size),
            "patch_size": list(self.patch_size),
            "width": self.width,
            "depth": self.depth,
            "num_prefix": self.num_prefix,
            "has_class_token": self.has_class_token,
        }

    def extra_repr(self) -> str:
        """Name, precision, and where the weights rest."""
        rest = "" if self.quantise == "none" else f", quantise={self.quantise!r}"
        rest += ", stream_weights=True" if self.stream_weights else ""
        rest += f", shard={self.shard}" if self.shard > 1 else ""
        return f"name={self.name!r}, precision={self.precision}{rest}"

    def _check_taps(self, taps: Sequence[int]) -> frozenset[int]:
        if not taps or not all(0 <= tap < self.depth for tap in taps):
            raise BackboneError(
                f"taps: got {list(taps)}, allowed are one or more block indices from 0 to {self.depth - 1}"
            )
        return frozenset(taps)

    def _images(self, clip_BTCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if clip_BTCHW.ndim != 5 or clip_BTCHW.shape[2] != 3:
            raise BackboneError(f"clip: got shape {tuple(clip_BTCHW.shape)}, wanted (clips, frames, 3, height, width)")
        height, width = clip_BTCHW.shape[-2:]
        return clip_BTCHW.flatten(0, 1), self.trunk.grid((height, width))

    def _run(
        self, images_ICHW: Tensor, *, last: int, frame_slice: int | None, wanted: Collection[int]
    ) -> Iterator[tuple[int, Tensor]]:
        return run_blocks(
            self.trunk,
            images_ICHW,
            precision=self.precision,
            weights=self._weights,
            last=last,
            frame_slice=frame_slice,
            wanted=wanted,
        )
