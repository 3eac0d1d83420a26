"""A folder of numbered pictures, read as a video.

Shapes: T frames asked for, in the order asked for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from side4video.data.frames import VideoInfo, check_indices, frame_range
from side4video.data.limits import too_large, video_limits
from side4video.errors import InputError, VideoError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
# Pillow guesses the format from the content and knows dozens. torchvision.io reads the same pixels in 0.7 of the time,
# and is deprecated
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_NUMBERED = re.compile(r"^(?P<before>.*?)(?P<number>\d+)(?P<after>\.[A-Za-z]+)$")


class FrameFolderReader:
    """Reads numbered pictures of one folder; frame 0 is the file numbered 1.

    Times are those of `fps` frames a second, because pictures have none.

    Raises:
        VideoError: no folder, no pictures, a number missing, or a picture that cannot be read.
        InputError: the pattern is not usable.
    """

    def __init__(self, path: str | Path, *, frame_pattern: str | None = None, fps: float = 25.0) -> None:
        self.path = str(path)
        self._folder = Path(path)
        if not self._folder.is_dir():
            raise VideoError(path, "no such folder of frames")
        self.frame_pattern = frame_pattern or find_pattern(self._folder)
        self._files = list_frames(self._folder, self.frame_pattern)
        first = self._load(0)
        height, width = first.shape[:2]
        self._size = height, width
        self.timestamps_seconds = np.arange(len(self._files)) / fps
        self.info = VideoInfo(
            path=self.path,
            num_frames=len(self._files),
            width=width,
            height=height,
            average_fps=fps,
            duration_seconds=len(self._files) / fps,
            codec=self._files[0].suffix.lstrip(".").lower(),
            container="frames",
            rotation=0,
        )

    def read(self, indices: Sequence[int]) -> Tensor:
        """The frames with these numbers (from 0) as uint8 `frames_TCHW`, RGB, laid out channels last.

        Raises:
            InputError: a number is not an integer, or out of range.
            VideoError: a picture cannot be read, or its size differs from the first one's.
        """
        numbers = check_indices(indices, len(self._files), self.path)
        frames_THWC = np.empty((len(numbers), *self._size, 3), np.uint8)
        seen: dict[int, int] = {}
        for slot, number in enumerate(numbers):
            frames_THWC[slot] = frames_THWC[seen[number]] if number in seen else self._load_checked(number)
            seen.setdefault(number, slot)
        return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)

    def frame_range(self, start_seconds: float | None = None, end_seconds: float | None = None) -> range:
        """Numbers of the frames from `start_seconds` up to, not including, `end_seconds`; never empty.

        Raises:
            InputError: the window is empty or starts after the last frame.
        """
        return frame_range(self.timestamps_seconds, start_seconds, end_seconds, self.path)

    def close(self) -> None:
        """Nothing stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, number: int) -> np.ndarray:
        file = self._files[number]
        if not file.is_file():  # a pipe would be waited for, and a device has no end
            raise VideoError(self.path, f"{file.name} is not a regular file")
        try:
            # read below, before anything of that size is made
            with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                opened = Image.open(file, formats=_FORMATS)
            with opened as image:
                reason = too_large(*image.size, video_limits())
                if reason is not None:
                    raise VideoError(self.path, f"{file.name}: {reason}")
                return np.asarray(image.convert("RGB"))
        except VideoError:
            raise
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoError(self.path, f"{file.name} is not a readable picture") from error

    def _load_checked(self, number: int) -> np.ndarray:
        rgb_HWC = self._load(number)
        if rgb_HWC.shape[:2] != self._size:
            (height, width), (first_height, first_width) = rgb_HWC.shape[:2], self._size
            raise VideoError(
                self.path,
                f"{self._files[number].name} is {width}x{height}, but the first frame {first_width}x{first_height}",
            )
        return rgb_HWC


def find_pattern(folder: Path) -> str:
    """The pattern of the folder's numbered pictures, such as ``img_{:05d}.jpg``.

    Raises:
        VideoError: no numbered pictures, or several kinds of them.
    """
    digits: dict[tuple[str, str], set[int]] = {}
    zeros: dict[tuple[str, str], bool] = {}
    for name in sorted(entry.name for entry in folder.iterdir()):
        match = _NUMBERED.match(name)
        if match is None or Path(name).suffix.lower() not in _SUFFIXES:
            continue
        kind = match["before"], match["after"]
        digits.setdefault(kind, set()).add(len(match["number"]))
        zeros[kind] = zeros.get(kind, False) or match["number"].startswith("0")
    if not digits:
        raise VideoError(folder, "no numbered pictures in it")
    if len(digits) > 1:
        names = " and ".join(sorted(f"{before}N{after}" for before, after in digits))
        raise VideoError(folder, f"pictures of several kinds, give frame_pattern: {names}")
    (before, after), widths = next(iter(digits.items()))
    width = min(widths) if zeros[before, after] else 0
    escaped = before.replace("{", "{{").replace("}", "}}")
    return f"{escaped}{{:0{width}d}}{after}" if width else f"{escaped}{{:d}}{after}"


def list_frames(folder: Path, frame_pattern: str) -> list[Path]:
    """The files of the pattern, from number 1 on.

    Raises:
        InputError: the pattern has no number in it.
        VideoError: no such file, or a hole, named by its file name.
    """
    try:
        name_of_1, name_of_2 = frame_pattern.format(1), frame_pattern.format(2)
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(
            f"frame_pattern must hold one number, such as 'img_{{:05d}}.jpg'; got {frame_pattern!r}"
        ) from error
    if name_of_1 == name_of_2:
        raise InputError(f"frame_pattern must hold one number, such as 'img_{{:05d}}.jpg'; got {frame_pattern!r}")
    inner = (folder / name_of_1).parent
    names = {entry.name for entry in inner.iterdir()} if inner.is_dir() else set[str]()
    numbers = _numbers(names, Path(frame_pattern).name)
    if not numbers:
        raise VideoError(folder, f"no file fits {frame_pattern!r}")
    for number in range(1, max(numbers) + 1):
        if number not in numbers:
            raise VideoError(folder, f"{frame_pattern.format(number)} is missing")
    return [inner / Path(frame_pattern.format(number)).name for number in range(1, max(numbers) + 1)]


def _numbers(names: set[str], pattern: str) -> set[int]:
    """Numbers n from 1 on for which ``pattern.format(n)`` is one of the names."""
    found: set[int] = set()
    for name in names:
        for digits in re.findall(r"\d+", name):
            number = int(digits)
            if number >= 1 and pattern.format(number) == name:
                found.add(number)
    return found
