"""An explanation as a moving picture: mp4 (H.264) and GIF, as bytes, with maps for the frames between those explained.

Shapes: F, frames that are shown.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from side4video.data.encode import encode_h264

MAX_MP4_FRAMES = 240
MAX_GIF_FRAMES = 48
_GIF_STEP_MS = 20
"""What browsers show; they slow down what is faster."""


def shown_frames(explained: Sequence[int], limit: int) -> list[int]:
    """Frame numbers from the first explained one to the last, all of them or at most `limit`, evenly spread."""
    first, last = min(explained), max(explained)
    count = min(limit, last - first + 1)
    return sorted({round(first + place * (last - first) / max(1, count - 1)) for place in range(count)})


def maps_between(maps_TYX: Tensor, explained: Sequence[int], shown: Sequence[int]) -> Tensor:
    """`maps_FYX`: of an explained frame its own map, between two of them a mixture by distance, outside the nearest."""
    order = sorted(range(len(explained)), key=lambda place: explained[place])
    places_T = np.array([explained[place] for place in order], np.float64)
    position_F = np.interp(np.array(shown, np.float64), places_T, np.arange(len(order)))
    before_F = torch.from_numpy(np.floor(position_F)).long()
    after_F = (before_F + 1).clamp(max=len(order) - 1)
    share_F11 = (torch.from_numpy(position_F) - before_F).to(maps_TYX.dtype)[:, None, None]
    sorted_TYX = maps_TYX[torch.tensor(order)]
    return sorted_TYX[before_F] * (1 - share_F11) + sorted_TYX[after_F] * share_F11


def mp4_bytes(frames_FHWC: NDArray[np.uint8], seconds_F: Sequence[float]) -> bytes:
    """H.264 in mp4, each frame at its time; an odd last row or column of pixels is cut off."""
    height, width = (max(2, side - side % 2) for side in frames_FHWC.shape[1:3])
    pictures = (np.ascontiguousarray(picture_HWC[:height, :width]) for picture_HWC in frames_FHWC)
    frames = (av.VideoFrame.from_ndarray(picture_HWC, format="rgb24") for picture_HWC in pictures)
    content, _ = encode_h264(zip([s - seconds_F[0] for s in seconds_F], frames, strict=True), crf=20)
    return content


def gif_bytes(frames_FHWC: NDArray[np.uint8], seconds_F: Sequence[float]) -> bytes:
    """An endless GIF; the last frame stays for a second."""
    pictures = [Image.fromarray(frame_HWC) for frame_HWC in frames_FHWC]
    lasts = [max(_GIF_STEP_MS, round(1000 * (b - a))) for a, b in pairwise(seconds_F)]
    buffer = io.BytesIO()
    # one palette for all, made of a few frames side by side: else colours flicker
    chosen = pictures[:: max(1, len(pictures) // 6)]
    sheet = Image.new("RGB", (sum(picture.width for picture in chosen), chosen[0].height))
    for place, picture in enumerate(chosen):
        sheet.paste(picture, (place * picture.width, 0))
    palette = sheet.quantize(255)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=[*lasts, 1000], loop=0, optimize=False)
    return buffer.getvalue()
