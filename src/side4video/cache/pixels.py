"""The pixels of a clip as bytes: the stem needs them, and what came from 8-bit pictures fits into 8 bits exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from side4video.data.transforms import PixelFormat


def pack_pixels(frames_TCHW: Tensor, pixels: PixelFormat, mask_T: Tensor | None = None) -> Tensor:
    """Normalised float32 frames as uint8 where that gives them back bit for bit, else the frames themselves.

    Erased rectangles and the like are not pictures; frames that `mask_T` calls empty are black again when unpacked.
    """
    mean_C11, std_C11 = (torch.tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    packed_TCHW = ((frames_TCHW * std_C11 + mean_C11) * 255).round().clamp(0, 255).to(torch.uint8)
    return packed_TCHW if torch.equal(unpack_pixels(packed_TCHW, pixels, mask_T), frames_TCHW) else frames_TCHW


def has_channels_last(frames_TCHW: Tensor) -> bool:
    """Whether a pixel's three colours lie side by side: convolutions then add in another order."""
    return not frames_TCHW.is_contiguous() and frames_TCHW.is_contiguous(memory_format=torch.channels_last)


def unpack_pixels(
    packed_TCHW: Tensor, pixels: PixelFormat, mask_T: Tensor | None = None, *, channels_last: bool = False
) -> Tensor:
    """What `pack_pixels` was given."""
    if channels_last:
        packed_TCHW = packed_TCHW.contiguous(memory_format=torch.channels_last)
    if packed_TCHW.dtype != torch.uint8:
        return packed_TCHW
    frames_TCHW = pixels.normalise(packed_TCHW)
    return frames_TCHW if mask_T is None else frames_TCHW * mask_T[:, None, None, None]
