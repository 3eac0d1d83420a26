"""Predictions for videos: each is decoded once for all runs, and each frame passes a backbone once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.build_streaming import LoadedRuns, load_scorers
from side4video.config.schema import RunSettings
from side4video.data.decode import open_video
from side4video.data.loaders import available_cores
from side4video.data.retrieval_sampling import strategy_1, strategy_4
from side4video.data.sampling import FrameSampler
from side4video.errors import CheckpointError, InputError, VideoError
from side4video.streaming.live import best_labels
from side4video.streaming.scorers import MiddleCrop, Scorer, Transform
from side4video.streaming.together import ClipJob, score_together

_MAX_THREADS = 8


@dataclass(frozen=True)
class Prediction:
    """The best labels of one video with their scores, best first, and how many of its frames were looked at.

    `exclusive`: the scores are shares of classes; else they are similarities of sentences.
    """

    path: Path
    top: tuple[tuple[str, float], ...]
    frames_decoded: int
    exclusive: bool = True


@dataclass(frozen=True)
class Unreadable:
    """A video that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Member:
    """A run and the frames that it looks at: `num_clips` choices as in its evaluation, or one of a retrieval run."""

    scorer: Scorer
    settings: RunSettings
    num_clips: int

    def clips(self, video_frames: int) -> list[list[int]]:
        """The frame numbers of each clip."""
        data = self.settings.data
        if self.settings.task == "retrieval":
            sample = strategy_1 if self.settings.retrieval.test_frames == "every" else strategy_4
            return [list(sample(video_frames, data.num_frames).indices)]
        return FrameSampler(data.sampling, data.num_frames).test(video_frames, self.num_clips)


@dataclass(frozen=True)
class SharedLook:
    """Runs that look at the same pixels through the same backbone: `crops` of each picture."""

    transform: Transform
    members: list[Member]

    @property
    def num_crops(self) -> int:
        """Parts of a picture that are looked at."""
        return self.transform.views.num_crops if isinstance(self.transform, MiddleCrop) else 1

    def crops(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Every part of the pictures, normalised."""
        if isinstance(self.transform, MiddleCrop):
            return self.transform.views(frames_FCHW)
        return [self.transform(frames_FCHW)]


@dataclass(frozen=True)
class _Look:
    """One video for the runs of one `SharedLook`: its pixels crop by crop, and where each run's clips are in them."""

    crops: list[Tensor]
    places: list[Tensor]
    num_frames: list[int]


def predict(
    runs: Sequence[str | Path],
    videos: Sequence[str | Path],
    *,
    texts: Sequence[str] = (),
    top_k: int = 5,
    clips: int = 4,
    crops: int = 1,
    same_pixels: bool = False,
) -> dict[str, list[Prediction]]:
    """What some runs say of some videos, as `side4video predict` does: by run folder, one prediction a video.

    Runs on one backbone share its pass. Retrieval runs score each video by the `texts`. A classifier looks at `clips`
    choices of frames, each in `crops` (1, 3 or 5) parts of the picture; with `same_pixels` all runs of a backbone look
    at the first one's parts, and so share a pass whatever their task.

    Raises:
        InputError: no run, or a number that is not allowed.
        CheckpointError, BackboneError, ConfigError: a run that cannot be used here.
        VideoError: a video that cannot be read.
    """
    if not runs or clips < 1 or top_k < 1:
        raise InputError(f"runs, clips and top_k must be at least 1; got {len(runs)}, {clips} and {top_k}")
    # where it was trained says nothing about where it is used
    loaded = load_scorers(
        [Path(run) for run in runs],
        overrides={"train.accelerator": "auto"},
        sentences=texts,
        same_pixels=same_pixels,
    )
    found: dict[str, list[Prediction]] = {scorer.name: [] for scorer in loaded.scorers}
    looks = make_looks(loaded, clips=clips, crops=crops)
    for video in predict_videos(loaded, looks, [Path(video) for video in videos], top_k=top_k):
        if isinstance(video, Unreadable):
            raise VideoError(video.path, video.reason)
        for name, prediction in video:
            found[name].append(prediction)
    return found


def make_looks(loaded: LoadedRuns, *, clips: int, crops: int) -> list[SharedLook]:
    """The runs, those together that can share a pass."""
    looks: dict[Any, SharedLook] = {}
    for scorer, settings in zip(loaded.scorers, loaded.settings, strict=True):
        transform = scorer.transform
        if isinstance(transform, MiddleCrop):
            transform = MiddleCrop(replace(transform.views, num_crops=crops))
        look = looks.setdefault((id(scorer.backbone), transform), SharedLook(transform, []))
        look.members.append(Member(scorer, settings, clips))
    return list(looks.values())


def predict_videos(
    loaded: LoadedRuns, looks: Sequence[SharedLook], videos: Sequence[Path], *, top_k: int
) -> Iterator[list[tuple[str, Prediction]] | Unreadable]:
    """For each video in order: the prediction of every run, or why it could not be read.

    Raises:
        CheckpointError: a run gives scores that are no numbers.
    """
    workers = loaded.settings[0].data.workers
    threads = min(_MAX_THREADS, available_cores()) if workers == "auto" else max(1, workers)
    for path, seen in _read_ahead(videos, looks, threads):
        if isinstance(seen, Unreadable):
            yield seen
            continue
        found: dict[int, Prediction] = {}
        for look, one in zip(looks, seen, strict=True):
            for member, scores_K, count in zip(look.members, _scores(look, one, loaded), one.num_frames, strict=True):
                scorer = member.scorer
                try:
                    top = best_labels(scorer, scores_K, top_k)
                except CheckpointError:
                    raise CheckpointError(
                        f"{scorer.name}: its scores for {path} are no numbers; its weights are damaged"
                    ) from None
                found[id(scorer)] = Prediction(path, top, count, scorer.exclusive)
        yield [(scorer.name, found[id(scorer)]) for scorer in loaded.scorers]


def _scores(look: SharedLook, seen: _Look, loaded: LoadedRuns) -> list[Tensor]:
    """`scores_K` of each run, the mean over clips and crops, float64."""
    jobs = [ClipJob(member.scorer, places) for member, places in zip(look.members, seen.places, strict=True)]
    frame_slice = loaded.settings[0].backbone.frame_slice
    with loaded.runtime.autocast():
        by_crop = [score_together(jobs, crop_FCHW, frame_slice=frame_slice) for crop_FCHW in seen.crops]
    return [torch.cat([crop[number].double() for crop in by_crop]).mean(0) for number in range(len(jobs))]


def _read(path: Path, looks: Sequence[SharedLook]) -> list[_Look]:
    """The frames that anybody wants, decoded once.

    Raises:
        VideoError: the video cannot be read.
    """
    with open_video(path) as reader:
        clips = [[member.clips(reader.info.num_frames) for member in look.members] for look in looks]
        wanted = sorted({index for look in clips for member in look for clip in member for index in clip})
        frames_UCHW = reader.read(wanted)
    place = {index: number for number, index in enumerate(wanted)}
    seen: list[_Look] = []
    for look, members in zip(looks, clips, strict=True):
        own = sorted({index for member in members for clip in member for index in clip})
        among = {index: number for number, index in enumerate(own)}
        pixels_FCHW = frames_UCHW if own == wanted else frames_UCHW[[place[index] for index in own]]
        places = [torch.tensor([[among[index] for index in clip] for clip in member]) for member in members]
        counts = [len({index for clip in member for index in clip}) for member in members]
        seen.append(_Look(look.crops(pixels_FCHW), places, counts))
    return seen


def _read_ahead(
    videos: Sequence[Path], looks: Sequence[SharedLook], threads: int
) -> Iterator[tuple[Path, list[_Look] | Unreadable]]:
    """Videos in order, read by threads (decoding leaves Python's lock alone), a few ahead of the one that is needed."""

    def read(path: Path) -> list[_Look] | Unreadable:
        try:
            return _read(path, looks)
        except VideoError as error:
            return Unreadable(path, error.reason)
        except OSError as error:
            return Unreadable(path, error.strerror or str(error))

    waiting: deque[tuple[Path, Future[list[_Look] | Unreadable]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path in videos:
            waiting.append((path, pool.submit(read, path)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
