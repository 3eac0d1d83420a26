"""What happens when in a long video: dense windows over all of it, each frame through the backbone once.

A window has as many frames as the model was trained on, sampled at a rate that is set: the frames of a training clip
are spread over the whole of it, so there is no rate of the run's own to take. Choose it so that a window lasts about as
long as a training clip. Frames are decoded as a stream and held only while a window needs them; what grows with the
video is one row of scores for each window.

Shapes: F, frames that were sampled; W, windows; K, labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.data.sequence import FrameSequence
from side4video.errors import CheckpointError, ConfigError
from side4video.search.embedding import DEFAULT_FPS, read_ahead
from side4video.streaming.passes import ScoredWindows, make_passes
from side4video.streaming.scorers import Scorer, Transform
from side4video.streaming.segments import Segment, default_thresholds, find_segments, frame_scores
from side4video.streaming.thumbnails import Thumbnail, ThumbnailStrip
from side4video.windows import WindowPlan

MAX_FPS = 1000


@dataclass(frozen=True)
class TimelineSettings:
    """How a video is looked at and when a label counts.

    `fps` frames a second are looked at; a video that is too short for a window is sampled faster, so that it fills one.
    `stride` is the distance of two windows in such frames (default: a quarter of the window). `threshold` is the frame
    score from which on a label counts (default: one half for classes; for sentences `default_thresholds`).
    Stretches of one label with at most `gap_seconds` between them are one; those below `min_seconds` are left out.

    Raises:
        ConfigError: a value that is not allowed.
    """

    fps: float = DEFAULT_FPS
    stride: int | None = None
    threshold: float | None = None
    min_seconds: float = 0.0
    gap_seconds: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MAX_FPS:
            raise ConfigError(f"fps must be above 0 and at most {MAX_FPS}; got {self.fps}")
        if self.stride is not None and self.stride < 1:
            raise ConfigError(f"stride must be at least 1 frame; got {self.stride}")
        if self.threshold is not None and self.threshold != self.threshold:
            raise ConfigError("threshold must be a number; got nan")
        for name in ("min_seconds", "gap_seconds"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} must be 0 or more seconds; got {value}")

    def plan(self, num_frames: int) -> WindowPlan:
        """The windows of a model of this many frames.

        Raises:
            ConfigError: a stride that would leave frames out.
        """
        stride = max(1, num_frames // 4) if self.stride is None else self.stride
        if stride > num_frames:
            raise ConfigError(
                f"stride must be at most the window's {num_frames} frames, so that no frame is left out; got {stride}"
            )
        return WindowPlan(num_frames, stride)


@dataclass(frozen=True, eq=False)
class Timeline:
    """What one model says of one video.

    `fps` is the rate that frames were sampled at, `window_seconds` how long a window lasts. `scores_WK` belong to
    windows, `scores_FK` to frames (the mean of the windows that cover them), both float32. `threshold_K` are the
    scores from which on each label counted. Seconds count from the video's first frame.
    """

    path: Path
    model: str
    labels: tuple[str, ...]
    fps: float
    duration_seconds: float
    window_seconds: float
    window_starts_seconds: tuple[float, ...]
    frame_times_seconds: tuple[float, ...]
    scores_WK: Tensor
    scores_FK: Tensor
    threshold_K: Tensor
    exclusive: bool
    segments: tuple[Segment, ...]
    thumbnails: tuple[Thumbnail, ...] = field(default=(), repr=False)


def make_timelines(
    models: Sequence[Scorer],
    path: str | Path,
    *,
    settings: TimelineSettings | None = None,
    progress: Callable[[float], None] | None = None,
    thumbnails: int = 0,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Timeline]:
    """A timeline of a video file or folder of frames for each model; those that can share a pass do.

    `progress` hears which share of the video is done. `thumbnails` small pictures are taken on the way. `autocast`
    gives the context of the models' precision.

    Raises:
        ConfigError: a stride that leaves frames out.
        VideoError: the video cannot be read.
        CheckpointError: a model gives scores that are no numbers.
    """
    settings = settings or TimelineSettings()
    strip = ThumbnailStrip(thumbnails)
    passes = make_passes(models, settings.plan)
    found = {id(scorer): _Found() for scorer in models}
    longest = max(scorer.num_frames for scorer in models)
    sequence = FrameSequence(path, fps=settings.fps, min_frames=longest)
    times: list[float] = []
    with torch.no_grad(), autocast():
        for chunk_times, clips in read_ahead(_prepared(sequence, [one.transform for one in passes], strip)):
            times.extend(chunk_times)
            for one, clip_TCHW in zip(passes, clips, strict=True):
                for scored in one.push(clip_TCHW):
                    found[id(scored.scorer)].add(scored)
            if progress is not None:
                progress(sequence.fraction)
        for one in passes:
            for scored in one.finish():
                found[id(scored.scorer)].add(scored)
    fps = sequence.sampling_fps or settings.fps
    ends = [*times, max(sequence.duration_seconds, times[-1])]
    pictures = strip.pictures()
    return [_timeline(scorer, found[id(scorer)], Path(path), settings, fps, ends, pictures) for scorer in models]


class _Found:
    """The windows of one scorer so far: their first frames, their lengths and their scores."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.scores: list[Tensor] = []

    def add(self, scored: ScoredWindows) -> None:
        """Further windows."""
        self.starts += scored.starts
        self.sizes += [scored.num_frames] * len(scored.starts)
        self.scores.append(scored.scores_WK)


def _prepared(
    sequence: FrameSequence, transforms: Sequence[Transform], strip: ThumbnailStrip
) -> Iterator[tuple[tuple[float, ...], list[Tensor]]]:
    """Times and, for each pass, the pixels that it wants, of every chunk."""
    for chunk in sequence:
        strip.add(chunk.times, chunk.frames_TCHW)
        yield chunk.times, [transform(chunk.frames_TCHW) for transform in transforms]


def _timeline(
    scorer: Scorer,
    found: _Found,
    path: Path,
    settings: TimelineSettings,
    fps: float,
    ends: Sequence[float],
    pictures: tuple[Thumbnail, ...],
) -> Timeline:
    scores_WK = torch.cat(found.scores)
    if not bool(torch.isfinite(scores_WK).all()):
        raise CheckpointError(f"{scorer.name}: its scores for {path} are no numbers; its weights are damaged")
    scores_FK = frame_scores(scores_WK, found.starts, found.sizes, len(ends) - 1)
    if settings.threshold is None:
        threshold_K = default_thresholds(scores_FK, exclusive=scorer.exclusive)
    else:
        threshold_K = torch.full((len(scorer.labels),), settings.threshold)
    segments = find_segments(
        scores_FK,
        ends,
        scorer.labels,
        threshold_K,
        exclusive=scorer.exclusive,
        min_seconds=settings.min_seconds,
        gap_seconds=settings.gap_seconds,
    )
    return Timeline(
        path=path,
        model=scorer.name,
        labels=scorer.labels,
        fps=fps,
        duration_seconds=ends[-1],
        window_seconds=scorer.num_frames / fps,
        window_starts_seconds=tuple(ends[start] for start in found.starts),
        frame_times_seconds=tuple(ends[:-1]),
        scores_WK=scores_WK,
        scores_FK=scores_FK,
        threshold_K=threshold_K,
        exclusive=scorer.exclusive,
        segments=tuple(segments),
        thumbnails=pictures,
    )
