"""Clips of one video for several models: each of its frames through the backbone once, all side networks in step.

Models may want other frames, other numbers of frames and several clips each. The frames that anybody wants pass the
backbone together; at each tapped block every side network takes what its clips need and moves on, so that no more than
one layer of tokens exists at a time.

Shapes: F, frames that anybody wants; V, clips of one model; R = 3S, what a frame contributes to the stem.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from side4video.backbones.trunk import LayerTokens
from side4video.side.fusion import NormedTokens
from side4video.side.kernels import fused
from side4video.side.network import ProjectedTokens, SideNetwork, SideOutput, StemParts
from side4video.streaming.scorers import Scorer

CLIPS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class ClipJob:
    """The clips that a model wants: for each, where its frames are among the F."""

    scorer: Scorer
    places_VT: Tensor


class SeenClips:
    """Clips whose frames have passed the backbone and one side network."""

    def __init__(self, side: SideNetwork, output: SideOutput, last: LayerTokens | None) -> None:
        self._side, self._output, self._last = side, output, last

    def run(self, side: SideNetwork) -> SideOutput:
        """What that side network said of them."""
        assert side is self._side
        return self._output

    def layer(self, tap: int) -> LayerTokens:
        """Their tokens of the last frozen block."""
        assert self._last is not None
        assert self._last.layer == tap
        return self._last


class _Walk:
    """Some clips of one model on their way through its side network, block by block."""

    def __init__(self, job: ClipJob, places_VT: Tensor, stem_FNR: Tensor | None, frames_FCHW: Tensor) -> None:
        self.scorer = job.scorer
        self._places_VT = places_VT
        # one clip of all frames in order needs no copy
        frames = torch.arange(frames_FCHW.shape[0], device=places_VT.device)
        self._is_all = len(places_VT) == 1 and torch.equal(places_VT[0], frames)
        self._coming: deque[ProjectedTokens] = deque()
        clip = frames_FCHW[places_VT[:1, :1]] if stem_FNR is None else StemParts(stem_FNR[places_VT])
        self._steps = job.scorer.side.stream(clip, self._arriving())
        self._side_VTMS: Tensor | None = None

    def _arriving(self) -> Iterator[ProjectedTokens]:
        while self._coming:
            yield self._coming.popleft()

    def step(self, projected: ProjectedTokens) -> None:
        """One side block further; `projected` holds all F frames."""
        if not self._is_all:
            patches_VTNS, class_VTS = (x[0][self._places_VT] for x in (projected.patches_BTNS, projected.class_BTS))
            projected = ProjectedTokens(patches_VTNS, class_VTS, projected.grid_YX)
        self._coming.append(projected)
        self._side_VTMS = next(self._steps)

    def scores(self, last: LayerTokens | None) -> Tensor:
        """`scores_VK`, when all blocks are done."""
        assert self._side_VTMS is not None
        if last is not None:
            tokens_BTAD = last.tokens_BTAD[0][self._places_VT]
            last = LayerTokens(last.layer, tokens_BTAD, last.num_prefix, last.has_class_token, last.grid_YX)
        side = self.scorer.side
        return self.scorer.scores(SeenClips(side, side.finish(self._side_VTMS), last))


@torch.no_grad()
@fused()
def score_together(jobs: Sequence[ClipJob], frames_FCHW: Tensor, *, frame_slice: int | None = None) -> list[Tensor]:
    """`scores_VK` of each job, float32 on the CPU. All models have one backbone and look at these pixels.

    Raises:
        BackboneError: pixels that do not fit.
    """
    backbone = jobs[0].scorer.backbone
    final = backbone.depth - 1
    clip_BTCHW = frames_FCHW.to(backbone.device).unsqueeze(0)
    walks: dict[SideNetwork, list[_Walk]] = {}
    for job in jobs:
        side = job.scorer.side
        stem_FNR = None if side.stem is None else side.stem.parts(clip_BTCHW)[0]
        places = job.places_VT.to(backbone.device).split(CLIPS_AT_ONCE)
        walks.setdefault(side, []).extend(_Walk(job, places_VT, stem_FNR, clip_BTCHW[0]) for places_VT in places)
    needs_last = any(job.scorer.needs_last for job in jobs)
    taps = sorted({tap for side in walks for tap in side.taps} | ({final} if needs_last else set()))
    last: LayerTokens | None = None
    for layer in backbone.stream(clip_BTCHW, taps, frame_slice=frame_slice):
        known: NormedTokens = {}
        for side, own in walks.items():
            if layer.layer in side.taps:
                projected = side.project(layer.layer, layer, known)
                for walk in own:
                    walk.step(projected)
        if layer.layer == final and needs_last:
            last = layer
    found: dict[int, list[Tensor]] = {}
    for own in walks.values():
        for walk in own:
            found.setdefault(id(walk.scorer), []).append(walk.scores(last if walk.scorer.needs_last else None))
    return [torch.cat(found[id(job.scorer)]) for job in jobs]
