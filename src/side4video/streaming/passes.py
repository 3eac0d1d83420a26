"""Frames through a backbone once, for all models that look at the same pixels, whatever their windows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from side4video.streaming.scorers import Scorer, Transform, pass_key
from side4video.windows import WindowPlan, Windows, WindowStream


@dataclass(frozen=True, eq=False)
class ScoredWindows:
    """`scores_WK` of one model for windows that were completed together; `starts` count frames from the first."""

    scorer: Scorer
    starts: tuple[int, ...]
    num_frames: int
    scores_WK: Tensor


class SharedPass:
    """One pass of a stream of frames through a backbone, for scorers of one `pass_key`.

    `plan` gives the windows of a number of frames. Use the iterators up: they do the work.
    """

    def __init__(self, scorers: Sequence[Scorer], plan: Callable[[int], WindowPlan]) -> None:
        backbone = scorers[0].backbone
        self.scorers = tuple(scorers)
        self.transform: Transform = scorers[0].transform
        self._sizes = sorted({scorer.num_frames for scorer in scorers})
        self._stream = WindowStream(
            backbone,
            [plan(size) for size in self._sizes],
            sides=[scorer.side for scorer in scorers],
            taps=[backbone.depth - 1] if any(scorer.needs_last for scorer in scorers) else (),
        )

    def push(self, frames_TCHW: Tensor) -> Iterator[ScoredWindows]:
        """Score the windows that these frames, as `transform` makes them, complete."""
        for windows in self._stream.push(frames_TCHW):
            yield from self._scored(windows)

    def finish(self) -> Iterator[ScoredWindows]:
        """Score what is left at the end; the next frame is the first of another video."""
        for windows in self._stream.finish():
            yield from self._scored(windows)

    def reset(self) -> None:
        """Forget the frames that were pushed: the next one is the first of another video."""
        self._stream.reset()

    def _scored(self, windows: Windows) -> Iterator[ScoredWindows]:
        for scorer in self.scorers:
            if scorer.num_frames == self._sizes[windows.plan]:
                yield ScoredWindows(scorer, windows.starts, windows.num_frames, scorer.scores(windows))


def make_passes(scorers: Sequence[Scorer], plan: Callable[[int], WindowPlan]) -> list[SharedPass]:
    """As few passes as there can be."""
    groups: dict[Hashable, list[Scorer]] = {}
    for scorer in scorers:
        groups.setdefault(pass_key(scorer), []).append(scorer)
    return [SharedPass(group, plan) for group in groups.values()]
