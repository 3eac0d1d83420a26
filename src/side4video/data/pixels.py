"""One decoded frame to RGB: colour matrix and range as the stream says, bit depth to 8, alpha ignored, upright.

A stream that does not name its colour matrix is read as BT.601, as FFmpeg, OpenCV and decord do, so that models see
the colours they were trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_FLAGS = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
# older PyAV has no such argument and no threads either
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
_FULL_RANGE = int(ColorRange.JPEG)


class RgbConverter:
    """Converts frames of one video; keeps the scaler's tables between them."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        """RGB as uint8 of shape (height, width, 3), before rotation; a frame of another size is scaled to this one."""
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=_FLAGS,
            src_color_range=frame.color_range,
            dst_color_range=_FULL_RANGE,
            **_ONE_THREAD,
        )
        plane = rgb.planes[0]
        rows = np.asarray(memoryview(plane)).reshape(plane.height, plane.line_size)
        return rows[:, : width * 3].reshape(height, width, 3)


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How to turn the stored picture upright: transpose, then mirror left-right, then mirror top-bottom.

    From the display matrix that phones write. Its scale and shift are left out, and so is an angle that is not a
    multiple of 90 degrees: it is taken as the nearest one.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = (int(v) for v in np.frombuffer(data, np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def turn(rgb_HWC: np.ndarray, how: tuple[bool, bool, bool]) -> np.ndarray:
    """The picture upright, as a view."""
    transpose, mirror_x, mirror_y = how
    if transpose:
        rgb_HWC = rgb_HWC.transpose(1, 0, 2)
    return rgb_HWC[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]


def degrees(how: tuple[bool, bool, bool]) -> int:
    """The rotation in it, counter-clockwise; a mirror without rotation is 0."""
    return {(True, False, True): 90, (False, True, True): 180, (True, True, False): 270}.get(how, 0)
