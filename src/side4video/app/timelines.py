"""What happens when in a visitor's video: segments, curves and small pictures, for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from side4video.search.embedding import DEFAULT_FPS
from side4video.streaming.scorers import ClassScorer
from side4video.streaming.thumbnails import Thumbnail
from side4video.streaming.timeline import MAX_FPS, Timeline, TimelineSettings, make_timelines
from side4video.training.runtime import Runtime

NUM_THUMBNAILS = 16
_MAX_POINTS = 300
_CURVES = 5
_WINDOWS_AT_LEAST = 4


@dataclass(frozen=True)
class Timelines:
    """The timelines of all runs, as plain JSON values, and the pictures below them."""

    shown: list[dict[str, Any]]
    thumbnails: tuple[Thumbnail, ...]


def usual_window(num_frames: int, seconds: float) -> float:
    """Seconds of a window where the visitor sets none: as `side4video predict --timeline`, but at most a quarter of the
    video, so that a short one has a timeline too."""
    return min(num_frames / DEFAULT_FPS, max(seconds, 0.1) / _WINDOWS_AT_LEAST)


def timelines_of(
    scorers: Sequence[ClassScorer],
    path: Path,
    *,
    window_seconds: float,
    runtime: Runtime,
    progress: Callable[[float], None],
) -> Timelines:
    """One timeline for each classifier; those with the same backbone and pixels share a pass.

    Raises:
        VideoError: the video cannot be read.
        CheckpointError: a run gives scores that are no numbers.
    """
    shown: dict[str, dict[str, Any]] = {}
    thumbnails: tuple[Thumbnail, ...] = ()
    by_length: dict[int, list[ClassScorer]] = {}
    for scorer in scorers:
        by_length.setdefault(scorer.num_frames, []).append(scorer)
    for number, (num_frames, group) in enumerate(by_length.items()):
        share = 1 / len(by_length)

        def tell(done: float, before: float = number * share, share: float = share) -> None:
            progress(before + share * done)

        settings = TimelineSettings(fps=min(MAX_FPS, num_frames / window_seconds))
        found = make_timelines(
            group,
            path,
            settings=settings,
            progress=tell,
            thumbnails=NUM_THUMBNAILS if number == 0 else 0,
            autocast=runtime.autocast,
        )
        shown |= {timeline.model: _as_json(timeline) for timeline in found}
        thumbnails = thumbnails or found[0].thumbnails
    return Timelines([shown[scorer.name] for scorer in scorers], thumbnails)


def _as_json(timeline: Timeline) -> dict[str, Any]:
    # the labels that count come first, then the likeliest of the others
    seconds = [0.0] * len(timeline.labels)
    for segment in timeline.segments:
        seconds[timeline.labels.index(segment.label)] += segment.end_seconds - segment.start_seconds
    mean_K = timeline.scores_FK.mean(0).tolist()
    order = sorted(range(len(timeline.labels)), key=lambda k: (-seconds[k], -mean_K[k]))
    with_segments = [k for k in order if seconds[k]]
    drawn = order[: max(_CURVES, len(with_segments))]
    step = -(-len(timeline.frame_times_seconds) // _MAX_POINTS)
    curves = torch.stack([part.mean(0) for part in timeline.scores_FK[:, drawn[:_CURVES]].split(step)])
    return {
        "run": timeline.model,
        "seconds": timeline.duration_seconds,
        "window_seconds": timeline.window_seconds,
        "labels": [timeline.labels[k] for k in drawn],
        # a class has the same colour in every video
        "colours": drawn,
        "segments": [
            {"start": s.start_seconds, "end": s.end_seconds, "label": s.label, "score": s.score}
            for s in timeline.segments
        ],
        "times": [round(time, 3) for time in timeline.frame_times_seconds[::step]],
        "curves": [[round(value, 4) for value in column] for column in curves.T.tolist()],
    }
