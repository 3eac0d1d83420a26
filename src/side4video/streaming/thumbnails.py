"""A few small pictures of a video, evenly spread, taken from its frames as they pass."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

HEIGHT = 90
_QUALITY = 72


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG picture of the frame at this time."""

    seconds: float
    jpeg: bytes


class ThumbnailStrip:
    """Keeps between `count` and twice `count` pictures, however long the video: when there are too many, every second
    one goes, and from then on only every second frame is looked at."""

    def __init__(self, count: int, *, height: int = HEIGHT) -> None:
        self._count = count
        self._height = height
        self._step = 1
        self._seen = 0
        self._kept: list[Thumbnail] = []

    def add(self, times: Sequence[float], frames_TCHW: Tensor) -> None:
        """Look at further frames, uint8."""
        if self._count < 1:
            return
        for time, frame_CHW in zip(times, frames_TCHW, strict=True):
            if self._seen % self._step == 0:
                self._kept.append(Thumbnail(time, jpeg_of(frame_CHW, self._height)))
                if len(self._kept) == 2 * self._count:
                    self._kept, self._step = self._kept[::2], 2 * self._step
            self._seen += 1

    def pictures(self) -> tuple[Thumbnail, ...]:
        """At most `count`, from first to last."""
        step = -(-len(self._kept) // self._count) if self._count else 1
        return tuple(self._kept[::step])


def jpeg_of(frame_CHW: Tensor, height: int) -> bytes:
    """A uint8 frame as a JPEG of this height."""
    image = Image.fromarray(frame_CHW.permute(1, 2, 0).contiguous().numpy())
    width = max(1, round(image.width * height / image.height))
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
