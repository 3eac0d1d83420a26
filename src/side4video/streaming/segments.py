"""Scores of windows to scores of frames, and those to segments: who is seen from when to when.

The score of a frame is the mean over the windows that it is in. A classifier names one label at a time: a frame belongs
to its likeliest class, if that reaches the threshold. Sentences are independent: each has segments of its own, which
may lie over another's.

Shapes: F, frames that were sampled; W, windows; K, labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SURE = 0.5
"""The threshold of shares that sum to one."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a video in seconds, with its label and the mean of that label's frame scores."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float


@dataclass(frozen=True)
class _Run:
    """Frames `start` up to, not including, `stop`, of label k."""

    start: int
    stop: int
    label: int


def frame_scores(scores_WK: Tensor, starts: Sequence[int], sizes: Sequence[int], num_frames: int) -> Tensor:
    """`scores_FK`: each frame's mean over the windows that cover it; a window covers `sizes[w]` frames from its start.

    Raises:
        ValueError: a frame that no window covers.
    """
    # float64: what is added at a start and taken away at an end leaves no more than its rounding
    steps_FK = torch.zeros(num_frames + 1, scores_WK.shape[1], dtype=torch.float64)
    counts_F = torch.zeros(num_frames + 1, dtype=torch.float64)
    first_W = torch.tensor(starts, dtype=torch.int64)
    past_W = first_W + torch.tensor(sizes, dtype=torch.int64)
    for places_W, sign in ((first_W, 1.0), (past_W, -1.0)):
        steps_FK.index_add_(0, places_W, sign * scores_WK.double())
        counts_F.index_add_(0, places_W, torch.full((len(starts),), sign, dtype=torch.float64))
    covered_F = counts_F.cumsum(0)[:-1]
    if not bool((covered_F > 0.5).all()):
        raise ValueError(f"frame {int((covered_F < 0.5).nonzero()[0])} is in no window")
    return (steps_FK.cumsum(0)[:-1] / covered_F.unsqueeze(1)).float()


def default_thresholds(scores_FK: Tensor, *, exclusive: bool) -> Tensor:
    """`threshold_K` where the user gave none: one half for shares. Scores of sentences have no fixed scale: there it is
    half way between the sentence's mean and its highest score in this video."""
    if exclusive:
        return torch.full((scores_FK.shape[1],), SURE)
    return (scores_FK.mean(0) + scores_FK.amax(0)) / 2


def find_segments(
    scores_FK: Tensor,
    times: Sequence[float],
    labels: Sequence[str],
    threshold_K: Tensor,
    *,
    exclusive: bool,
    min_seconds: float = 0.0,
    gap_seconds: float = 0.0,
) -> list[Segment]:
    """Segments in order of time. `times` has one entry more than there are frames: where the last one ends.

    Two stretches of one label become one when at most `gap_seconds` lie between them and no other label's stretch does;
    then those shorter than `min_seconds` go, and what lay around them may meet.
    """
    if exclusive:
        best_F = scores_FK.argmax(1)
        sure_F = scores_FK.gather(1, best_F.unsqueeze(1)).squeeze(1) >= threshold_K[best_F]
        rows = [torch.where(sure_F, best_F, -1).tolist()]
    else:
        above_FK = scores_FK >= threshold_K
        rows = [[label if above else -1 for above in above_FK[:, label].tolist()] for label in range(len(labels))]
    found: list[Segment] = []
    for row in rows:
        runs = _joined(_runs(row), times, gap_seconds)
        kept = [run for run in runs if times[run.stop] - times[run.start] >= min_seconds]
        found += [
            Segment(times[r.start], times[r.stop], labels[r.label], float(scores_FK[r.start : r.stop, r.label].mean()))
            for r in _joined(kept, times, gap_seconds)
        ]
    return sorted(found, key=lambda segment: (segment.start_seconds, segment.end_seconds, segment.label))


def _runs(row: Sequence[int]) -> list[_Run]:
    """Neighbours with the same label as one; -1 is no label."""
    runs: list[_Run] = []
    for place, label in enumerate(row):
        if runs and runs[-1].stop == place and runs[-1].label == label:
            runs[-1] = _Run(runs[-1].start, place + 1, label)
        elif label >= 0:
            runs.append(_Run(place, place + 1, label))
    return runs


def _joined(runs: Sequence[_Run], times: Sequence[float], gap_seconds: float) -> list[_Run]:
    joined: list[_Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last is not None and last.label == run.label and times[run.start] - times[last.stop] <= gap_seconds:
            joined[-1] = _Run(last.start, run.stop, run.label)
        else:
            joined.append(run)
    return joined
