"""Limits on what one video may ask for, so that no file takes the machine. Each is an environment variable.

| variable | default | what is refused |
|---|---|---|
| `SIDE4VIDEO_MAX_FRAME_PIXELS` | 35389440 (8192 x 4320) | frames with more pixels, by the header and by the stream |
| `SIDE4VIDEO_MAX_FRAME_SIDE` | 16384 | frames that are wider or higher |
| `SIDE4VIDEO_MAX_FRAMES` | 2500000 (11 hours at 60 a second) | videos with more packets, read by number |

They hold in every process of a run, data workers included, which is why they are no settings of a recipe: they guard
the machine, and change no result.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from side4video.errors import ConfigError


@dataclass(frozen=True)
class VideoLimits:
    """What a video may ask for at most."""

    frame_pixels: int = 8192 * 4320
    frame_side: int = 16384
    frames: int = 2_500_000


_VARIABLES = {
    "frame_pixels": "SIDE4VIDEO_MAX_FRAME_PIXELS",
    "frame_side": "SIDE4VIDEO_MAX_FRAME_SIDE",
    "frames": "SIDE4VIDEO_MAX_FRAMES",
}


def video_limits() -> VideoLimits:
    """The limits of this process.

    Raises:
        ConfigError: a variable that is set to anything but a whole number from 1.
    """
    changed: dict[str, int] = {}
    for name, variable in _VARIABLES.items():
        text = os.environ.get(variable)
        if text is None:
            continue
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise ConfigError(f"{variable} must be a whole number from 1; got {text!r}")
        changed[name] = int(text)
    return VideoLimits(**changed)


def too_large(width: int, height: int, limits: VideoLimits) -> str | None:
    """Why frames of this size are refused; None where they are not."""
    if max(width, height) <= limits.frame_side and width * height <= limits.frame_pixels:
        return None
    hint = f"; {_VARIABLES['frame_pixels']} allows more" if limits == video_limits() else ""
    return (
        f"frames of {width}x{height} are larger than allowed "
        f"({limits.frame_side} a side, {limits.frame_pixels} pixels){hint}"
    )
