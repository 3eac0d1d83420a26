"""One clip, decoded, scaled down and written again: as H.264 with short groups of pictures, or as numbered JPEGs.

Short groups make random access cheap: a reader that wants 8 of 300 frames decodes a group for each. A clip appears
under its name when it is whole, never before; a frame is never scaled up, and every frame keeps its place and time.

Shapes: as the project legend.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation

from side4video.data.decode import open_video
from side4video.data.encode import encode_h264
from side4video.errors import VideoError
from side4video.training.files import write_bytes

Target = Literal["videos", "frames"]
_FRAMES_AT_ONCE = 32
_JPEG_QUALITY = 95
# of a frame folder's pictures, which have no times: Something-Something V1 was extracted at 12 a second
FOLDER_FPS = 12


@dataclass(frozen=True)
class Form:
    """What clips become. `size` is the short side in pixels, `gop` the frames from one key frame to the next, `crf`
    x264's quality (lower is better), `frame_pattern` names the pictures of a frame folder, numbered from 1."""

    to: Target = "videos"
    size: int = 256
    gop: int = 12
    crf: int = 20
    frame_pattern: str = "img_{:05d}.jpg"

    @property
    def suffix(self) -> str:
        """What a clip's name ends in."""
        return ".mp4" if self.to == "videos" else ""


@dataclass(frozen=True)
class Written:
    """A clip that is there now: its number of frames."""

    num_frames: int


def write_clip(source: Path, target: Path, form: Form, *, source_pattern: str | None = None) -> Written:
    """Make `target` of `source`, a video or a folder of frames.

    Raises:
        VideoError: the source cannot be read to its end; nothing named `target` has appeared.
        OSError: the target cannot be written; as above.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if form.to == "videos":
        content, count = _encode(source, form, source_pattern)
        with _naming(target):
            write_bytes(target, content)
        return Written(count)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _naming(target):
            partial.mkdir()
            count = _write_frames(source, partial, form, source_pattern)
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Written(count)


def check_clip(source: Path, *, source_pattern: str | None = None) -> Written:
    """Open a clip and decode its first frame.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        with open_video(source, frame_pattern=source_pattern) as reader:
            return Written(reader.info.num_frames)
    except OSError as error:
        raise VideoError(source, error.strerror or str(error)) from error


def count_frames(clip: Path, form: Form) -> int:
    """Frames of a clip that was written before."""
    if form.to == "frames":
        with os.scandir(clip) as entries:
            return sum(1 for _ in entries)
    return check_clip(clip).num_frames


def scaled_size(width: int, height: int, size: int, *, even: bool) -> tuple[int, int]:
    """(width, height) with the short side at most `size`; H.264 wants both even."""
    short = min(width, height)
    factor = min(1.0, size / short)
    sides = [max(1, round(side * factor)) for side in (width, height)]
    if even:
        sides = [max(2, side - side % 2) for side in sides]
    return sides[0], sides[1]


@contextmanager
def _naming(target: Path) -> Generator[None]:
    """An error of the disk does not always say where."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error


def _frames(source: Path, pattern: str | None) -> Iterator[tuple[float, np.ndarray]]:
    """(time in seconds, RGB picture) of every frame, in order."""
    try:
        with open_video(source, frame_pattern=pattern) as reader:
            seconds = reader.timestamps_seconds
            if reader.info.container == "frames":
                seconds = np.arange(reader.info.num_frames) / FOLDER_FPS
            for first in range(0, reader.info.num_frames, _FRAMES_AT_ONCE):
                numbers = range(first, min(first + _FRAMES_AT_ONCE, reader.info.num_frames))
                frames_THWC = reader.read(numbers).permute(0, 2, 3, 1).numpy()
                yield from zip(seconds[first : first + len(numbers)].tolist(), frames_THWC, strict=True)
    except OSError as error:  # of the source: what is done with a frame does not come through here
        raise VideoError(source, error.strerror or str(error)) from error


def _scaled(picture_HWC: np.ndarray, form: Form, pixels: str) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb24")
    width, height = scaled_size(frame.width, frame.height, form.size, even=pixels != "rgb24")
    return frame.reformat(width=width, height=height, format=pixels, interpolation=Interpolation.AREA)


def _encode(source: Path, form: Form, pattern: str | None) -> tuple[bytes, int]:
    pictures = ((seconds, _scaled(picture_HWC, form, "yuv420p")) for seconds, picture_HWC in _frames(source, pattern))
    try:
        return encode_h264(pictures, crf=form.crf, gop=form.gop)
    except av.error.FFmpegError as error:
        raise VideoError(source, f"cannot be encoded: {error.strerror}") from error


def _write_frames(source: Path, folder: Path, form: Form, pattern: str | None) -> int:
    count = 0
    for _, picture_HWC in _frames(source, pattern):
        count += 1
        image = _scaled(picture_HWC, form, "rgb24").to_image()
        image.save(folder / form.frame_pattern.format(count), quality=_JPEG_QUALITY)
    return count
