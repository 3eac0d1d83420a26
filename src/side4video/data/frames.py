"""What every kind of reader shares: the description of a video, and the rules for frame numbers and times."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from side4video.errors import InputError

# time stamps are rounded to the container's clock; a window that starts on a frame must contain it
_CLOCK_SECONDS = 1e-3


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video without decoding more than its first frame."""

    path: str
    num_frames: int
    width: int
    """After rotation."""
    height: int
    """After rotation."""
    average_fps: float
    duration_seconds: float
    codec: str
    container: str
    """FFmpeg's first name of the format, such as `mov`, `matroska`, `avi`, `mpegts`; `frames` for a folder."""
    rotation: int
    """Degrees counter-clockwise by which frames are turned: 0, 90, 180 or 270."""


def check_indices(indices: Sequence[int], num_frames: int, path: str | Path) -> list[int]:
    """The numbers as plain integers.

    Raises:
        InputError: one is not an integer, or not in `range(num_frames)`.
    """
    try:
        numbers = [operator.index(number) for number in indices]
    except TypeError as error:
        raise InputError(f"frame numbers must be integers; got {indices!r} for {path}") from error
    for number in numbers:
        if not 0 <= number < num_frames:
            raise InputError(f"frame number {number} of {path} is not in 0..{num_frames - 1}")
    return numbers


def frame_range(
    timestamps_seconds: np.ndarray, start_seconds: float | None, end_seconds: float | None, path: str | Path
) -> range:
    """Numbers of the frames whose time is in [start, end); never empty: at least the frame on screen at the start.

    `None` stands for the first and the last frame.

    Raises:
        InputError: the window is empty, not finite, or starts after the last frame.
    """
    start = 0.0 if start_seconds is None else float(start_seconds)
    end = float("inf") if end_seconds is None else float(end_seconds)
    if not (0 <= start < end) or start == float("inf"):
        raise InputError(
            f"a window must have 0 <= start < end; got {start_seconds} to {end_seconds} seconds for {path}"
        )
    num_frames = len(timestamps_seconds)
    interval = float(timestamps_seconds[-1]) / (num_frames - 1) if num_frames > 1 else float("inf")
    if start > float(timestamps_seconds[-1]) + interval:
        last = float(timestamps_seconds[-1])
        raise InputError(f"the window starts at {start_seconds} seconds, after the last frame ({last:.3f}) of {path}")
    first = int(np.searchsorted(timestamps_seconds, start - _CLOCK_SECONDS, side="left"))
    stop = int(np.searchsorted(timestamps_seconds, end - _CLOCK_SECONDS, side="left"))
    if stop <= first:  # the window lies between two frames
        first = max(0, int(np.searchsorted(timestamps_seconds, start + _CLOCK_SECONDS, side="right")) - 1)
        stop = first + 1
    return range(min(first, num_frames - 1), max(stop, min(first, num_frames - 1) + 1))
