"""A run as something that embeds videos and captions: what `embed`, `index` and `search` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.build import load_run, pixel_format
from side4video.build_retrieval import build_tokenizer
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.caption_dataset import CenterCrop
from side4video.data.transforms import TestTransform
from side4video.errors import CheckpointError, DataError, InputError
from side4video.search.embedding import VideoEmbedder, WindowSettings
from side4video.search.query import TextQuery
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.checkpoint import CONFIG
from side4video.training.runtime import start


def run_settings(run: Path, overrides: Mapping[str, Any], *, needs_text: bool = True) -> RunSettings:
    """The settings of a run.

    Raises:
        CheckpointError: text is needed, and the run is no retrieval run.
        ConfigError: settings that are not allowed.
    """
    settings = load_settings(run / CONFIG, overrides)
    if needs_text and settings.task != "retrieval":
        raise CheckpointError(
            f"{run} is a {settings.task} run, which knows no text; this needs a retrieval run: "
            "side4video train --task retrieval"
        )
    return settings


def load_embedder(run: Path, settings: RunSettings, windows: WindowSettings) -> VideoEmbedder:
    """The model of a run on the best device here, ready to embed.

    Raises:
        CheckpointError: the run is damaged or belongs to another backbone.
        ConfigError: the device is not there.
    """
    runtime = start(settings.train.model_copy(update={"devices": 1}))
    model = load_run(run, device=runtime.device)
    pixels = pixel_format(model.backbone.preprocessing)
    if isinstance(model, VideoTextModel):
        return VideoEmbedder(model, CenterCrop(pixels), windows, autocast=runtime.autocast)
    middle = TestTransform(pixels, settings.data.resize, 1)
    transform: Callable[[Tensor], Tensor] = lambda frames_TCHW: middle(frames_TCHW)[0]  # noqa: E731
    return VideoEmbedder(model, transform, windows, autocast=runtime.autocast)


@torch.no_grad()
def make_text_query(embedder: VideoEmbedder, settings: RunSettings, text: str) -> TextQuery:
    """The query that a sentence makes.

    Raises:
        InputError: a text without a word.
    """
    assert isinstance(embedder.model, VideoTextModel)
    model = embedder.model
    try:
        tokens = build_tokenizer(settings, model.backbone)([text])
    except DataError as error:
        raise InputError(f"the text to search for must have a word in it; got {text!r}") from error
    with embedder.autocast():
        tokens_1QE = model.encode_text(tokens.ids_MQ.to(model.backbone.device))
    return TextQuery(model, tokens_1QE.float(), tokens.mask_MQ.to(model.backbone.device))
