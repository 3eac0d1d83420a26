"""Runs to scorers: what timelines, live streams and predictions with several models look at videos with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from side4video.backbones.base import FrozenBackbone
from side4video.build import load_run, pixel_format
from side4video.build_retrieval import build_tokenizer
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.caption_dataset import CenterCrop
from side4video.data.transforms import TestTransform
from side4video.errors import ConfigError, DataError
from side4video.streaming.scorers import ClassScorer, MiddleCrop, Scorer, SentenceScorer, Transform
from side4video.tasks.base import TrainedModel
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.checkpoint import BACKBONE, CONFIG
from side4video.training.files import read_json
from side4video.training.runtime import Runtime, start


@dataclass(frozen=True)
class LoadedRuns:
    """Scorers in the order of the runs, their settings, and where and in which precision they compute."""

    scorers: list[Scorer]
    settings: list[RunSettings]
    runtime: Runtime


def load_scorers(
    runs: Sequence[Path],
    *,
    overrides: Mapping[str, Any] | None = None,
    sentences: Sequence[str] = (),
    same_pixels: bool = False,
) -> LoadedRuns:
    """The models of some runs on the best device here; a backbone that several have is loaded once.

    Retrieval runs score the `sentences`. Classifiers and retrieval runs crop pictures differently, each as in its own
    evaluation; with `same_pixels` those of one backbone look at what the first of them looks at, and so share a pass.

    Raises:
        ConfigError: the device is not there; a retrieval run without sentences, or sentences without one.
        CheckpointError, BackboneError: a run that is damaged, or whose backbone cannot be had here.
    """
    stored = [load_settings(path / CONFIG, dict(overrides or {})) for path in runs]
    tasks = {settings.task for settings in stored}
    for path, settings in zip(runs, stored, strict=True):
        if settings.task == "retrieval" and not sentences:
            raise ConfigError(f"{path} is a retrieval run, which names no classes: say what to look for with --text")
    if sentences and "retrieval" not in tasks:
        raise ConfigError("--text is for retrieval runs; a classifier knows its classes only")
    runtime = start(stored[0].train.model_copy(update={"devices": 1}))
    backbones: dict[str, FrozenBackbone] = {}
    transforms: dict[str, Transform] = {}
    scorers: list[Scorer] = []
    for path, settings in zip(runs, stored, strict=True):
        identity = f"{settings.backbone.precision} {read_json(path / BACKBONE)}"
        model = load_run(path, device=runtime.device, backbone=backbones.get(identity))
        backbones[identity] = model.backbone
        transform = make_transform(model, settings)
        if same_pixels:
            transform = transforms.setdefault(identity, transform)
        scorers.append(make_scorer(model, settings, transform, name=str(path), sentences=sentences, runtime=runtime))
    return LoadedRuns(scorers, stored, runtime)


def make_transform(model: TrainedModel, settings: RunSettings) -> Transform:
    """The pixels that the model sees in evaluation."""
    pixels = pixel_format(model.backbone.preprocessing)
    if isinstance(model, VideoTextModel):
        return CenterCrop(pixels)
    return MiddleCrop(TestTransform(pixels, settings.data.resize, 1))


@torch.no_grad()
def make_scorer(
    model: TrainedModel,
    settings: RunSettings,
    transform: Transform,
    *,
    name: str,
    sentences: Sequence[str],
    runtime: Runtime,
) -> Scorer:
    """A model as something that scores windows.

    Raises:
        ConfigError: a sentence without a word.
    """
    num_frames = settings.data.num_frames
    if not isinstance(model, VideoTextModel):
        return ClassScorer(name, model, num_frames, transform)
    try:
        tokens = build_tokenizer(settings, model.backbone)(list(sentences))
    except DataError as error:
        raise ConfigError(f"--text: a sentence must have a word in it; got {list(sentences)}") from error
    device = model.backbone.device
    with runtime.autocast():
        tokens_KQE = model.encode_text(tokens.ids_MQ.to(device)).float()
    return SentenceScorer(name, model, tuple(sentences), tokens_KQE, tokens.mask_MQ.to(device), num_frames, transform)
