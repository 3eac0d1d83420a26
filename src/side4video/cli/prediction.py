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

from side4video.backbones.base import FrozenBackbone
from side4video.build import load_classifier, pixel_format
from side4video.cli.views import Views
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.decode import open_video
from side4video.data.loaders import available_cores
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform
from side4video.errors import CheckpointError, VideoError
from side4video.tasks.recognition import VideoClassifier
from side4video.training.checkpoint import BACKBONE, CONFIG
from side4video.training.files import read_json
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
class _Group:
    """Runs that share clips and backbone, by their folders."""

    recipe: Recipe
    models: dict[Path, VideoClassifier]


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
    groups = _load_groups(runs, stored, views, runtime)
    recipes = [group.recipe for group in groups]
    workers = stored[0].data.workers
    threads = min(_MAX_THREADS, available_cores()) if workers == "auto" else max(1, workers)
    for path, clips in _read_ahead(videos, recipes, threads):
        if isinstance(clips, Unreadable):
            yield clips
            continue
        found: dict[Path, Prediction] = {}
        for group, (clips_VTCHW, frames_decoded) in zip(groups, clips, strict=True):
            models = list(group.models.values())
            for run, model, scores_K in zip(
                group.models, models, score_views(models, clips_VTCHW, runtime), strict=True
            ):
                if not bool(torch.isfinite(scores_K).all()):
                    raise CheckpointError(f"{run}: its scores for {path} are no numbers; its weights are damaged")
                found[run] = Prediction(path, _best(model, scores_K, top_k), frames_decoded)
        yield [(run, found[run]) for run in runs]


def score_views(models: Sequence[VideoClassifier], clips_VTCHW: Tensor, runtime: Runtime) -> list[Tensor]:
    """Each model's scores of one video (K, float64, summing to one): softmax of each of V views, averaged.

    All models have the same backbone, which runs once: every side network takes its own layers from that pass.
    """
    backbone, frame_slice = models[0].backbone, models[0].video.frame_slice
    taps = sorted({tap for model in models for tap in model.side.taps})
    scores: list[list[Tensor]] = [[] for _ in models]
    with torch.no_grad(), runtime.autocast():
        for part_on_cpu in clips_VTCHW.split(_VIEWS_PER_PASS):
            part_VTCHW = part_on_cpu.to(runtime.device)
            if len(models) == 1:
                scores[0].append(_softmax(models[0](part_VTCHW)))
                continue
            layers = list(backbone.stream(part_VTCHW, taps, frame_slice=frame_slice))
            for model, own in zip(models, scores, strict=True):
                output = model.side(part_VTCHW, (layer for layer in layers if layer.layer in model.side.taps))
                own.append(_softmax(model.head(output.frames_BTS.mean(1))))
    return [torch.cat(own).mean(0) for own in scores]


def _softmax(logits_VK: Tensor) -> Tensor:
    # on the CPU, as mps has no float64
    return logits_VK.cpu().double().softmax(-1)


def _best(model: VideoClassifier, scores_K: Tensor, top_k: int) -> tuple[tuple[str, float], ...]:
    names = model.class_names or tuple(str(number) for number in range(len(scores_K)))
    best = scores_K.topk(min(top_k, len(scores_K)))
    return tuple((names[i], score) for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))


def _load_groups(runs: Sequence[Path], stored: Sequence[RunSettings], views: Views, runtime: Runtime) -> list[_Group]:
    """The runs, those together that look at the same clips through the same backbone; each backbone is loaded once."""
    backbones: dict[str, FrozenBackbone] = {}
    groups: dict[tuple[str, Recipe], _Group] = {}
    for path, settings in zip(runs, stored, strict=True):
        identity = f"{settings.backbone.precision} {read_json(path / BACKBONE)}"
        model = load_classifier(path, device=runtime.device, backbone=backbones.get(identity))
        backbones[identity] = model.backbone
        sampler = FrameSampler(settings.data.sampling, settings.data.num_frames)
        transform = TestTransform(pixel_format(model.backbone.preprocessing), settings.data.resize, views.crops)
        recipe = Recipe(sampler, transform, views.clips)
        groups.setdefault((identity, recipe), _Group(recipe, {})).models[path] = model
    return list(groups.values())


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
