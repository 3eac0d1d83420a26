"""Which places and moments of a visitor's video spoke for a class, as pictures and shares for the page."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from side4video.app.limits import Limits
from side4video.app.recognise import Looks
from side4video.data.decode import VideoReader
from side4video.data.transforms import TestTransform, crop_boxes, resized_size
from side4video.explain.attribution import explain_clip
from side4video.explain.painting import overlay
from side4video.tasks.recognition import VideoClassifier

_PICTURE_SIDE = 360
_MARGIN_LIGHT = 0.35  # of what the model does not look at
_QUALITY = 82


@dataclass(frozen=True)
class Saliency:
    """Plain JSON values, and a JPEG picture for each of the T frames."""

    shown: dict[str, Any]
    pictures: list[bytes]


def saliency_of(
    model: VideoClassifier, looks: Looks, path: Path, label: str, limits: Limits, progress: Callable[[float], None]
) -> Saliency:
    """What speaks for `label` in one clip that is spread over the whole video.

    Raises:
        VideoError: the video cannot be read.
    """
    small: list[Tensor] = []
    clips: list[Tensor] = []
    with VideoReader(path, max_side=limits.max_side, max_pixels=limits.max_pixels) as reader:
        (chosen,) = looks.sampler.test(reader.info.num_frames, 1)
        times = reader.timestamps_seconds[chosen].tolist()
        size = reader.info.height, reader.info.width
        for frames_TCHW in looks.in_parts(reader, chosen):
            clips.append(looks.transform(frames_TCHW))
            small.append(_small(frames_TCHW))
            progress(0.5 * sum(map(len, clips)) / len(chosen))
    found = explain_clip(model, torch.cat(clips).unsqueeze(0), label)
    progress(0.9)
    frames_THWC = torch.cat(small).permute(0, 2, 3, 1).contiguous().numpy()
    painted = _painted(frames_THWC, found.maps_TYX, _seen(looks.transform.views, size))
    return Saliency(
        {
            "label": label,
            "score": found.score,
            "frames": [
                {"seconds": time, "share": share} for time, share in zip(times, found.frames_T.tolist(), strict=True)
            ],
            "taps": [
                {"name": name, "share": share}
                for name, share in zip(found.tap_names, found.taps_L.tolist(), strict=True)
            ],
        },
        [_jpeg(picture) for picture in painted],
    )


def _seen(views: TestTransform, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Top, left, bottom and right of what the model sees, as shares of the picture."""
    scaled = resized_size(size, views.pixels.size, views.resize)
    (box,) = crop_boxes(scaled, views.pixels.size, 1)
    height, width = scaled
    return box.top / height, box.left / width, (box.top + box.height) / height, (box.left + box.width) / width


def _painted(
    frames_THWC: NDArray[np.uint8], maps_TYX: Tensor, seen: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    height, width = frames_THWC.shape[1:3]
    top, left, bottom, right = (
        round(share * side) for share, side in zip(seen, (height, width, height, width), strict=True)
    )
    painted = (frames_THWC * _MARGIN_LIGHT).astype(np.uint8)
    part = np.s_[:, max(0, top) : bottom, max(0, left) : right]
    painted[part] = overlay(frames_THWC[part], maps_TYX)
    return painted


def _small(frames_TCHW: Tensor) -> Tensor:
    """Frames whose longer side is `_PICTURE_SIDE`."""
    height, width = frames_TCHW.shape[2:]
    scale = _PICTURE_SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    parts = [
        torch.nn.functional.interpolate(frame.unsqueeze(0).float(), size, mode="bilinear", antialias=True)
        for frame in frames_TCHW
    ]
    return torch.cat(parts).round().clamp(0, 255).byte()


def _jpeg(picture_HWC: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
