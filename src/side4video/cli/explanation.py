"""Explanations for videos: the clip that the model looks at, what it says of it and why, and the files that show it.

Shapes: F, frames that are shown.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from side4video.build import load_run, pixel_format
from side4video.build_retrieval import build_tokenizer
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.caption_dataset import CenterCrop
from side4video.data.decode import open_video
from side4video.data.sampling import FrameSampler, uniform_val
from side4video.data.transforms import PixelFormat, TestTransform
from side4video.errors import ConfigError, DataError, InputError
from side4video.explain import Explanation, explain_clip, explain_text, overlay
from side4video.explain.movie import MAX_GIF_FRAMES, MAX_MP4_FRAMES, gif_bytes, maps_between, mp4_bytes, shown_frames
from side4video.explain.strip import draw_strip
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.checkpoint import CONFIG
from side4video.training.files import write_bytes
from side4video.training.runtime import start

PICTURE_SIDE = 320
"""Pixels of the shorter side of what is shown, about: a multiple of the model's input."""
# of a frame folder's pictures, which have no times
_FOLDER_FPS = 12
_FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class Explainer:
    """A run that is ready to explain; `text` is the caption of a retrieval run."""

    model: VideoClassifier | VideoTextModel
    settings: RunSettings
    target: int | str | None
    text: str | None
    steps: int


@dataclass(frozen=True)
class ExplainedVideo:
    """What was found of one video: frames and their times, and the explanation of the clip that they make."""

    path: Path
    frames: tuple[int, ...]
    seconds: tuple[float, ...]
    explanation: Explanation

    def as_json(self, files: Sequence[Path]) -> dict[str, Any]:
        """Plain JSON values."""
        found = self.explanation
        moments = zip(
            self.frames, self.seconds, found.frames_T.tolist(), found.contributions_LT.sum(0).tolist(), strict=True
        )
        parts = zip(found.tap_names, found.taps_L.tolist(), found.contributions_LT.sum(1).tolist(), strict=True)
        return {
            "path": str(self.path),
            "label": found.label,
            "score": found.score,
            "evidence": found.evidence,
            "baseline": found.baseline,
            "missing": found.missing,
            "frames": [
                {"frame": frame, "seconds": seconds, "share": share, "contribution": added}
                for frame, seconds, share, added in moments
            ],
            "taps": [{"name": name, "share": share, "contribution": added} for name, share, added in parts],
            "files": [str(path) for path in files],
        }


def load_explainer(
    run: Path, overrides: Mapping[str, Any], *, target: str | None, text: str | None, steps: int
) -> Explainer:
    """The model of a run on the best device here.

    Raises:
        CheckpointError: the run is damaged or belongs to another backbone.
        ConfigError: a target for a retrieval run, a text for a recognition run, none for a retrieval run, an unknown
            class, or a device that is not there.
    """
    settings = load_settings(run / CONFIG, overrides)
    if settings.task == "retrieval" and (text is None or target is not None):
        raise ConfigError(f"{run} is a retrieval run: say what to explain with --text SENTENCE, without --target")
    if settings.task == "recognition" and text is not None:
        raise ConfigError(f"{run} is a recognition run, which knows no text: use --target LABEL")
    model = load_run(run, device=start(settings.train.model_copy(update={"devices": 1})).device)
    return Explainer(model, settings, _target(model, target), text, steps)


def _target(model: VideoClassifier | VideoTextModel, target: str | None) -> int | str | None:
    if target is None or not isinstance(model, VideoClassifier):
        return None
    names = model.class_names or ()
    if target not in names and target.isdecimal() and int(target) < model.head.out_features:
        return int(target)
    return target


def explain_video(explainer: Explainer, path: Path) -> ExplainedVideo:
    """Explain the clip that the model sees of a video.

    Raises:
        VideoError: it cannot be read.
        InputError: an unknown class, or a text without a word.
    """
    model, settings = explainer.model, explainer.settings
    count = settings.data.num_frames
    with open_video(path) as reader:
        length = reader.info.num_frames
        if isinstance(model, VideoTextModel):
            numbers = uniform_val(length, count)
        else:
            numbers = FrameSampler(settings.data.sampling, count).val(length)
        frames_TCHW = reader.read(numbers)
        seconds = _times(reader.info.container, reader.timestamps_seconds)
    clip_BTCHW = _view(explainer, pixel_format(model.backbone.preprocessing))(frames_TCHW).unsqueeze(0)
    if isinstance(model, VideoTextModel):
        assert explainer.text is not None
        try:
            tokens = build_tokenizer(settings, model.backbone)([explainer.text])
        except DataError as error:
            raise InputError(f"--text: must have a word in it; got {explainer.text!r}") from error
        found = explain_text(model, clip_BTCHW, tokens.ids_MQ, tokens.mask_MQ, explainer.text, steps=explainer.steps)
    else:
        try:
            found = explain_clip(model, clip_BTCHW, explainer.target, steps=explainer.steps)
        except ValueError as error:
            raise ConfigError(f"--{error}" if str(error).startswith("target") else str(error)) from error
    return ExplainedVideo(path, tuple(numbers), tuple(float(seconds[number]) for number in numbers), found)


def write_pictures(explainer: Explainer, video: ExplainedVideo, targets: Sequence[Path]) -> None:
    """Write an mp4, a GIF or a PNG strip, by what each target's name ends in.

    Raises:
        VideoError: the video cannot be read any more.
        OSError: a file cannot be written; it is as it was then.
    """
    for target in targets:
        if target.suffix == ".png":
            frames_THWC, seconds_T = shown_crop(explainer, video.path, video.frames)
            strip = draw_strip(frames_THWC, video.explanation, title=video.path.name, seconds_T=seconds_T)
            buffer = io.BytesIO()
            strip.save(buffer, "PNG", optimize=True)
            content = buffer.getvalue()
        else:
            limit, encode = (MAX_MP4_FRAMES, mp4_bytes) if target.suffix == ".mp4" else (MAX_GIF_FRAMES, gif_bytes)
            shown = shown_frames(video.frames, limit)
            frames_FHWC, seconds_F = shown_crop(explainer, video.path, shown)
            maps_FYX = maps_between(video.explanation.maps_TYX, video.frames, shown)
            content = encode(overlay(frames_FHWC, maps_FYX), seconds_F)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, content)


def shown_crop(explainer: Explainer, path: Path, numbers: Sequence[int]) -> tuple[NDArray[np.uint8], list[float]]:
    """Frames as people want to see them, and their times: the crop that the model looks at, larger, as uint8 FHWC.

    Raises:
        VideoError: the video cannot be read.
    """
    pixels = pixel_format(explainer.model.backbone.preprocessing)
    factor = max(1, round(PICTURE_SIDE / min(pixels.size)))
    height, width = pixels.size
    plain = replace(pixels, size=(height * factor, width * factor), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    view = _view(explainer, plain)
    with open_video(path) as reader:
        times = _times(reader.info.container, reader.timestamps_seconds)
        # a few at a time: the frames of a large video, whole, would not fit
        parts = [
            _as_bytes(view(reader.read(numbers[first : first + _FRAMES_AT_ONCE])))
            for first in range(0, len(numbers), _FRAMES_AT_ONCE)
        ]
    return np.concatenate(parts), [float(times[number]) for number in numbers]


def _view(explainer: Explainer, pixels: PixelFormat) -> Callable[[Tensor], Tensor]:
    """How a model of this kind looks at frames: the middle crop of its evaluation."""
    if isinstance(explainer.model, VideoTextModel):
        return CenterCrop(pixels)
    middle = TestTransform(pixels, explainer.settings.data.resize, 1)
    return lambda frames_TCHW: middle(frames_TCHW)[0]


def _as_bytes(frames_TCHW: Tensor) -> NDArray[np.uint8]:
    return frames_TCHW.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _times(container: str, timestamps_seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.arange(len(timestamps_seconds)) / _FOLDER_FPS if container == "frames" else timestamps_seconds
