"""One decoded frame to RGB: colour matrix and range as the stream says, bit depth to 8, alpha ignored, upright.

A stream that does not name its colour matrix is read as BT.601, as FFmpeg, OpenCV and decord do, so that models see
the colours they were trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# full chroma makes 10-bit exact and costs nothing; accurate rounding of 8-bit 4:2:0 would cost 16 times the
# conversion (0.42 for 0.03 ms at 320x240) to bring an error of at most 3 levels, mean 1.3, down to 0.5
_FLAGS = 0x0002 | 0x2000  # swscale.h: SWS_BILINEAR, SWS_FULL_CHR_H_INT
# limited range 16..235 to 0..255
_EXPANDED = np.clip(np.round((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)


class RgbConverter:
    """Converts frames of one video; keeps the scaler's tables between them."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        """RGB as uint8 of shape (height, width, 3), before rotation; a frame of another size is scaled to this one."""
        is_gray = frame.format.name.startswith("gray")
        converted = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="gray" if is_gray else "rgb24",
            interpolation=_FLAGS,
            src_color_range=None if is_gray else frame.color_range,
            dst_color_range=None if is_gray else ColorRange.JPEG,
            threads=1,
        )
        plane = converted.planes[0]
        rows = np.asarray(memoryview(plane)).reshape(plane.height, plane.line_size)
        if not is_gray:
            return rows[:, : width * 3].reshape(height, width, 3)
        gray = rows[:, :width]
        # the scaler takes every gray picture for full range
        gray = _EXPANDED[gray] if frame.color_range == ColorRange.MPEG else gray
        return np.broadcast_to(gray[..., None], (height, width, 3))


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
