"""Predictions for videos: each is decoded once for all runs that want the same clips, its views averaged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.build import load_run, pixel_format
from side4video.cli.views import Views
from side4video.config.load import load_settings
from side4video.config.schema import DataSettings
from side4video.data.decode import open_video
from side4video.data.loaders import available_cores
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform
from side4video.errors import CheckpointError, VideoError
from side4video.tasks.recognition import VideoClassifier
from side4video.training.checkpoint import CONFIG
from side4video.training.runtime import Runtime, start

_VIEWS_PER_PASS = 8
_MAX_THREADS = 8


@dataclass(frozen=True)
class Prediction:
    """The likeliest labels of one video with their scores, best first, and how many of its frames were looked at."""

    path: Path
    top: tuple[tuple[str, float], ...]
    frames_decoded: int


@dataclass(frozen=True)
class Unreadable:
    """A video that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Recipe:
    """How clips are made of a video: two runs with equal recipes look at the same pixels."""

    sampler: FrameSampler
    transform: TestTransform
    num_clips: int

    def read(self, path: Path) -> tuple[Tensor, int]:
        """All views of a video as `clips_VTCHW`, crop by crop, and the number of frames that were decoded.

        Raises:
            VideoError: the video cannot be read.
        """
        with open_video(path) as reader:
            clips = self.sampler.test(reader.info.num_frames, self.num_clips)
            needed = sorted({index for clip in clips for index in clip})
            frames_UCHW = reader.read(needed)
        place = {index: number for number, index in enumerate(needed)}
        slots = [[place[index] for index in clip] for clip in clips]
        views = [crop_UCHW[chosen] for crop_UCHW in self.transform(frames_UCHW) for chosen in slots]
        return torch.stack(views), len(needed)


@dataclass(frozen=True)
class _LoadedRun:
    path: Path
    model: VideoClassifier
    recipe: Recipe


def predict_videos(
    runs: Sequence[Path], videos: Sequence[Path], *, views: Views, overrides: Mapping[str, Any], top_k: int
) -> Iterator[list[tuple[Path, Prediction]] | Unreadable]:
    """For each video in order: the prediction of every run, or why it could not be read.

    Raises:
        CheckpointError: a run is damaged, belongs to another backbone, or gives scores that are no numbers.
        ConfigError: the device is not there.
    """
    stored = [load_settings(path / CONFIG, overrides) for path in runs]
    runtime = start(stored[0].train.model_copy(update={"devices": 1}))
    loaded = [_load(path, settings.data, views, runtime) for path, settings in zip(runs, stored, strict=True)]
    recipes = list(dict.fromkeys(run.recipe for run in loaded))
    workers = stored[0].data.workers
    threads = min(_MAX_THREADS, available_cores()) if workers == "auto" else max(1, workers)
    for path, clips in _read_ahead(videos, recipes, threads):
        if isinstance(clips, Unreadable):
            yield clips
            continue
        predictions: list[tuple[Path, Prediction]] = []
        for run in loaded:
            clips_VTCHW, frames_decoded = clips[recipes.index(run.recipe)]
            scores_K = score_views(run.model, clips_VTCHW, runtime)
            if not bool(torch.isfinite(scores_K).all()):
                raise CheckpointError(
                    f"{run.path}: gives scores that are no numbers for {path}; its weights are damaged"
                )
            names = run.model.class_names or tuple(str(number) for number in range(len(scores_K)))
            best = scores_K.topk(min(top_k, len(scores_K)))
            top = tuple((names[i], score) for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))
            predictions.append((run.path, Prediction(path, top, frames_decoded)))
        yield predictions


def score_views(model: VideoClassifier, clips_VTCHW: Tensor, runtime: Runtime) -> Tensor:
    """Scores of one video (K, float64, summing to one): softmax of each of V views, averaged."""
    scores: list[Tensor] = []
    with torch.no_grad(), runtime.autocast():
        for part_VTCHW in clips_VTCHW.split(_VIEWS_PER_PASS):
            # on the CPU, as mps has no float64
            scores.append(model(part_VTCHW.to(runtime.device)).cpu().double().softmax(-1))
    return torch.cat(scores).mean(0)


def _load(path: Path, data: DataSettings, views: Views, runtime: Runtime) -> _LoadedRun:
    model = load_run(path, device=runtime.device)
    pixels = pixel_format(model.backbone.preprocessing)
    sampler = FrameSampler(data.sampling, data.num_frames)
    return _LoadedRun(path, model, Recipe(sampler, TestTransform(pixels, data.resize, views.crops), views.clips))


def _read_ahead(
    videos: Sequence[Path], recipes: Sequence[Recipe], threads: int
) -> Iterator[tuple[Path, list[tuple[Tensor, int]] | Unreadable]]:
    """Videos in order, read by threads (decoding leaves Python's lock alone), a few ahead of the one that is needed."""

    def read(path: Path) -> list[tuple[Tensor, int]] | Unreadable:
        try:
            return [recipe.read(path) for recipe in recipes]
        except VideoError as error:
            return Unreadable(path, error.reason)
        except OSError as error:
            return Unreadable(path, error.strerror or str(error))

    waiting: deque[tuple[Path, Future[list[tuple[Tensor, int]] | Unreadable]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path in videos:
            waiting.append((path, pool.submit(read, path)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
