"""Sliding windows over a video of any length, every frame through the frozen backbone once.

What the frozen blocks say of a frame does not depend on the frames around it, nor does what a side network's
projections and its stem's convolution make of that. So frames go in as they come, in slices; what is known of the last
few is kept; and every window that is complete is handed out as if it had been run on its own (the stem is padded at the
window's own ends). Windows may overlap, and several side networks and several kinds of windows share one pass. What is
held is the longest window and one slice, however long the video is.

    stream = WindowStream(model.backbone, [WindowPlan(size=8, stride=4)], sides=[model.side])
    for windows in stream.run(chunks):
        frames_BTS = windows.run(model.side).frames_BTS

Shapes: F, frames that are held; A, all tokens of a frame; R = 3S, what a frame contributes to the stem.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.trunk import LayerTokens
from side4video.side.fusion import NormedTokens
from side4video.side.kernels import fused
from side4video.side.network import ProjectedTokens, SideNetwork, SideOutput, StemParts

FRAME_SLICE = 16
"""Frames that run through the backbone at a time: enough to keep a device busy."""
MAX_WINDOWS = 8
"""Windows that are handed out at a time."""
MAX_WINDOWS_ON_CPU = 4
"""There smaller pieces stay in the caches: 94 ms a window for 102 (ViT-B/16, side 192, one core, bf16)."""


@dataclass(frozen=True)
class WindowPlan:
    """Windows of `size` frames, one every `stride` frames from the first.

    The last one ends at the last frame, so that every frame of a video is in a window (if stride <= size); it is
    shorter only where the video is.

    Raises:
        ValueError: a size or stride below 1.
    """

    size: int
    stride: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise ValueError(f"a window's size and stride must be at least 1; got {self.size} and {self.stride}")


class SeenClips(Protocol):
    """Clips whose frames have passed the backbone, whoever ran them."""

    def run(self, side: SideNetwork) -> SideOutput:
        """What a side network says of them."""
        ...

    def layer(self, tap: int) -> LayerTokens:
        """Their tokens of one frozen block."""
        ...


@dataclass(frozen=True)
class Windows:
    """B windows of equal length that were completed together; they hold tokens, so use them before asking for more.

    `starts` are the numbers of their first frames, counted from the first frame of the video; `plan` is the place of
    their plan among the stream's.
    """

    plan: int
    starts: tuple[int, ...]
    clip_BTCHW: Tensor
    _held: Sequence[LayerTokens]
    _shared: Mapping[SideNetwork, _SideFrames]
    _places: tuple[slice, ...]

    @property
    def num_frames(self) -> int:
        """T."""
        return self.clip_BTCHW.shape[1]

    def run(self, side: SideNetwork) -> SideOutput:
        """What a side network says of each window: one of the stream's `sides`, or one whose blocks the stream taps.

        Raises:
            ValueError: neither.
        """
        shared = self._shared.get(side)
        with fused():
            if shared is None:
                return side(self.clip_BTCHW, self.layers(side.taps))
            return side(shared.stem(self._places) or self.clip_BTCHW, shared.layers(self._places))

    def layers(self, taps: Collection[int]) -> Iterator[LayerTokens]:
        """The tokens of these frozen blocks in order of depth, one after the other: what a side network consumes.

        Raises:
            ValueError: a block that the stream does not tap.
        """
        unknown = set(taps) - {held.layer for held in self._held}
        if unknown:
            raise ValueError(f"the stream taps no block {sorted(unknown)}; it taps {[t.layer for t in self._held]}")
        return (self._cut(held) for held in self._held if held.layer in taps)

    def layer(self, tap: int) -> LayerTokens:
        """The tokens of one frozen block.

        Raises:
            ValueError: a block that the stream does not tap.
        """
        return next(self.layers((tap,)))

    def _cut(self, held: LayerTokens) -> LayerTokens:
        tokens_BTAD = cut(held.tokens_BTAD[0], self._places)
        return LayerTokens(held.layer, tokens_BTAD, held.num_prefix, held.has_class_token, held.grid_YX)


class _SideFrames:
    """What the held frames are to one side network, window or no window: projected tokens and parts of the stem."""

    def __init__(self, side: SideNetwork) -> None:
        self._side = side
        self._stem_BTNR: Tensor | None = None
        self._layers: dict[int, ProjectedTokens] = {}

    @torch.no_grad()
    def begin(self, clip_BTCHW: Tensor) -> None:
        """Further frames, before their layers come."""
        if self._side.stem is not None:
            self._stem_BTNR = _joined(self._stem_BTNR, self._side.stem.parts(clip_BTCHW))

    def take(self, layer: LayerTokens, known: NormedTokens) -> None:
        """A layer of those frames, if the side network taps it; `known` is what side networks share of it."""
        if layer.layer in self._side.taps:
            held = self._layers.get(layer.layer)
            with fused():
                new = self._side.project(layer.layer, layer, known)
            self._layers[layer.layer] = ProjectedTokens(
                _joined(held and held.patches_BTNS, new.patches_BTNS),
                _joined(held and held.class_BTS, new.class_BTS),
                new.grid_YX,
            )

    def forget(self, surplus: int) -> None:
        """Drop the first frames."""
        # cloned: a view would keep what is dropped
        if self._stem_BTNR is not None:
            self._stem_BTNR = self._stem_BTNR[:, surplus:].clone()
        for tap, held in self._layers.items():
            kept = (held.patches_BTNS[:, surplus:].clone(), held.class_BTS[:, surplus:].clone())
            self._layers[tap] = ProjectedTokens(*kept, held.grid_YX)

    def stem(self, places: Sequence[slice]) -> StemParts | None:
        """Of windows of the held frames; None without a stem."""
        return None if self._stem_BTNR is None else StemParts(cut(self._stem_BTNR[0], places))

    def layers(self, places: Sequence[slice]) -> Iterator[ProjectedTokens]:
        """Of windows of the held frames, in order of depth."""
        for tap in self._side.taps:
            held = self._layers[tap]
            yield ProjectedTokens(cut(held.patches_BTNS[0], places), cut(held.class_BTS[0], places), held.grid_YX)


class WindowStream:
    """Frames in, windows out. One object for one video at a time; `finish` makes it ready for the next.

    `sides` are the side networks that will run over the windows, `taps` frozen blocks whose tokens somebody wants
    beside them (`taps_of`). Frames run through the backbone `frame_slice` at a time, and at most `max_windows` windows
    are handed out together. No gradient reaches what windows share.

    Raises:
        ValueError: no plan, nothing to tap, or sizes below 1.
        BackboneError: when frames are pushed: taps that the backbone does not have, or pixels that it cannot take.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        plans: Sequence[WindowPlan],
        *,
        sides: Sequence[SideNetwork] = (),
        taps: Collection[int] = (),
        frame_slice: int = FRAME_SLICE,
        max_windows: int | None = None,
    ) -> None:
        if not plans:
            raise ValueError("a window stream needs at least one plan; got none")
        if not sides and not taps:
            raise ValueError("a window stream needs side networks or taps; got neither")
        if max_windows is None:
            max_windows = MAX_WINDOWS_ON_CPU if backbone.device.type == "cpu" else MAX_WINDOWS
        if frame_slice < 1 or max_windows < 1:
            raise ValueError(f"frame_slice and max_windows must be at least 1; got {frame_slice} and {max_windows}")
        self.backbone = backbone
        self.sides = tuple(sides)
        self.taps = tuple(sorted(set(taps)))
        self.plans = tuple(plans)
        self.frame_slice = frame_slice
        self.max_windows = max_windows
        self._all_taps = tuple(sorted({*self.taps, *taps_of(sides)}))
        self._longest = max(plan.size for plan in plans)
        self._reset()

    @property
    def frames_seen(self) -> int:
        """Frames pushed since the video began."""
        return self._seen

    @property
    def frames_held(self) -> int:
        """Frames whose tokens are kept now: never more than the longest window between two pushes."""
        return 0 if self._frames_FCHW is None else len(self._frames_FCHW)

    def run(self, chunks: Iterable[Tensor]) -> Iterator[Windows]:
        """All windows of a video that comes in chunks of normalised frames, TCHW each."""
        for frames_TCHW in chunks:
            yield from self.push(frames_TCHW)
        yield from self.finish()

    def push(self, frames_TCHW: Tensor) -> Iterator[Windows]:
        """Take further frames, and hand out the windows that they complete. Use the iterator up: it does the work.

        Raises:
            ValueError: a tensor that is not TCHW with three channels.
            BackboneError: a size that does not fit the backbone.
        """
        if frames_TCHW.dim() != 4 or frames_TCHW.shape[1] != 3:
            raise ValueError(f"frames must be TCHW with C = 3; got a tensor of shape {tuple(frames_TCHW.shape)}")
        for part_TCHW in frames_TCHW.split(self.frame_slice):
            if len(part_TCHW):
                self._take(part_TCHW.to(self.backbone.device))
                yield from self._complete()
                self._forget(self._seen - self._longest)

    def finish(self) -> Iterator[Windows]:
        """The video is over: hand out the windows that end at its last frame and were not complete before."""
        for number, plan in enumerate(self.plans):
            covered = self._next[number] - plan.stride + plan.size if self._next[number] else 0
            if covered < self._seen:
                start = max(0, self._seen - plan.size)
                yield self._windows(number, [start], self._seen - start)
        self._reset()

    def reset(self) -> None:
        """Forget the frames that were pushed: the next one is the first of another video."""
        self._reset()

    def _reset(self) -> None:
        self._seen = 0
        self._next = [0 for _ in self.plans]
        self._frames_FCHW: Tensor | None = None
        self._held: list[LayerTokens] = []
        self._shared = {side: _SideFrames(side) for side in self.sides}

    def _take(self, part_TCHW: Tensor) -> None:
        clip_BTCHW = part_TCHW.unsqueeze(0)
        for shared in self._shared.values():
            shared.begin(clip_BTCHW)
        # one layer at a time: no second copy of all of them
        for layer in self.backbone.stream(clip_BTCHW, self._all_taps):
            known: NormedTokens = {}
            for shared in self._shared.values():
                shared.take(layer, known)
            if layer.layer in self.taps:
                self._keep(layer)
        frames_FCHW = self._frames_FCHW
        self._frames_FCHW = part_TCHW if frames_FCHW is None else torch.cat([frames_FCHW, part_TCHW])
        self._seen += len(part_TCHW)

    def _keep(self, new: LayerTokens) -> None:
        place = self.taps.index(new.layer)
        if place == len(self._held):
            self._held.append(new)
        else:
            self._held[place] = _with_tokens(new, _joined(self._held[place].tokens_BTAD, new.tokens_BTAD))

    def _complete(self) -> Iterator[Windows]:
        for number, plan in enumerate(self.plans):
            starts: list[int] = []
            while self._next[number] + plan.size <= self._seen:
                starts.append(self._next[number])
                self._next[number] += plan.stride
            for first in range(0, len(starts), self.max_windows):
                yield self._windows(number, starts[first : first + self.max_windows], plan.size)

    def _windows(self, plan: int, starts: Sequence[int], num_frames: int) -> Windows:
        assert self._frames_FCHW is not None
        offset = self._seen - len(self._frames_FCHW)
        places = tuple(slice(start - offset, start - offset + num_frames) for start in starts)
        clip_BTCHW = cut(self._frames_FCHW, places)
        return Windows(plan, tuple(starts), clip_BTCHW, tuple(self._held), self._shared, places)

    def _forget(self, before: int) -> None:
        """Drop the frames before this one: a later window starts after it, also the last one."""
        assert self._frames_FCHW is not None
        surplus = before - (self._seen - len(self._frames_FCHW))
        if surplus > 0:
            # cloned: a view would keep what is dropped
            self._frames_FCHW = self._frames_FCHW[surplus:].clone()
            for place, held in enumerate(self._held):
                self._held[place] = _with_tokens(held, held.tokens_BTAD[:, surplus:].clone())
            for shared in self._shared.values():
                shared.forget(surplus)


def taps_of(sides: Iterable[SideNetwork], *, last_of: FrozenBackbone | None = None) -> tuple[int, ...]:
    """The frozen blocks that these side networks tap, and with `last_of` that backbone's last one."""
    taps = {tap for side in sides for tap in side.taps}
    return tuple(sorted(taps if last_of is None else taps | {last_of.depth - 1}))


def cut(x_FA: Tensor, places: Sequence[slice]) -> Tensor:
    """Pieces of the first axis, equally long, one behind the other on a new one; a view if they are evenly spaced."""
    first, size = places[0].start, places[0].stop - places[0].start
    step = places[1].start - first if len(places) > 1 else 1
    if step > 0 and all(place.start == first + step * number for number, place in enumerate(places)):
        return x_FA[first : places[-1].stop].unfold(0, size, step).movedim(-1, 1)
    return torch.stack([x_FA[place] for place in places])


def _joined(held_BTA: Tensor | None, new_BTA: Tensor) -> Tensor:
    return new_BTA if held_BTA is None else torch.cat([held_BTA, new_BTA], 1)


def _with_tokens(layer: LayerTokens, tokens_BTAD: Tensor) -> LayerTokens:
    return LayerTokens(layer.layer, tokens_BTAD, layer.num_prefix, layer.has_class_token, layer.grid_YX)
