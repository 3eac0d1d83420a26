"""Models that compare videos with sentences: one that embeds windows, asked by a text, a video, or a part of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from side4video.build import pixel_format
from side4video.build_retrieval import build_tokenizer
from side4video.config.schema import RunSettings
from side4video.data.caption_dataset import CenterCrop
from side4video.data.transforms import TestTransform
from side4video.errors import DataError, InputError
from side4video.search.embedding import EmbeddedWindow, VideoEmbedder, WindowSettings
from side4video.search.moments import Moment, merge_windows
from side4video.search.query import TextQuery
from side4video.search.store import Window
from side4video.streaming.scorers import MiddleCrop
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel


def make_embedder(
    model: VideoClassifier | VideoTextModel,
    settings: RunSettings,
    windows: WindowSettings,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> VideoEmbedder:
    """A model with the pixels that it was trained on, as `side4video index` uses it."""
    pixels = pixel_format(model.backbone.preprocessing)
    if isinstance(model, VideoTextModel):
        return VideoEmbedder(model, CenterCrop(pixels), windows, autocast=autocast)
    middle = MiddleCrop(TestTransform(pixels, settings.data.resize, 1))
    return VideoEmbedder(model, middle, windows, autocast=autocast)


@torch.no_grad()
def text_query(embedder: VideoEmbedder, settings: RunSettings, text: str) -> TextQuery:
    """The query that a sentence makes.

    Raises:
        InputError: a text without a word, or a model that knows no text.
    """
    model = embedder.model
    if not isinstance(model, VideoTextModel):
        raise InputError("the model of this library knows no text; search it by a video")
    try:
        tokens = build_tokenizer(settings, model.backbone)([text])
    except DataError:
        raise InputError("the text to search for must have a word in it") from None
    with embedder.autocast():
        tokens_1QE = model.encode_text(tokens.ids_MQ.to(model.backbone.device))
    return TextQuery(model, tokens_1QE.float(), tokens.mask_MQ.to(model.backbone.device))


class TextFinder:
    """A retrieval run that finds moments within one video."""

    def __init__(self, name: str, embedder: VideoEmbedder, settings: RunSettings) -> None:
        self.name, self._embedder, self._settings = name, embedder, settings

    def embed(self, path: Path, progress: Callable[[float], None]) -> list[EmbeddedWindow]:
        """The windows of a video.

        Raises:
            VideoError: it cannot be read.
        """
        return self._embedder.embed(path, on_progress=progress)

    def find(self, windows: list[EmbeddedWindow], text: str, top: int) -> list[Moment]:
        """The best moments for a sentence, best first.

        Raises:
            InputError: a text without a word.
        """
        query = text_query(self._embedder, self._settings, text)
        scores = query.scores([window.frames_TE for window in windows]).tolist()
        stored = [
            Window("", "", number, len(windows), window.start_seconds, window.end_seconds, window.fps)
            for number, window in enumerate(windows)
        ]
        return merge_windows(list(zip(stored, scores, strict=True)), top)
