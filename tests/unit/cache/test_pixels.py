"""Pixels as bytes: exact where they were bytes, whole where they were not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from side4video.cache.pixels import has_channels_last, pack_pixels, unpack_pixels
from side4video.data.transforms import PixelFormat

T, H, W = 4, 6, 10
FORMATS = [
    PixelFormat((H, W), (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    PixelFormat((H, W), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    PixelFormat((H, W), (0.0, 0.1, 0.9), (1.0, 0.01, 0.3)),
]


def every_byte() -> Tensor:
    """All 256 values in every channel."""
    count = T * H * W
    frames_TCHW = torch.arange(3 * count).remainder(256).to(torch.uint8).view(T, 3, H, W)
    assert all(len(frames_TCHW[:, channel].unique()) > 150 for channel in range(3))
    return frames_TCHW


@pytest.mark.parametrize("pixels", FORMATS)
def test_what_was_bytes_comes_back_bit_for_bit(pixels: PixelFormat) -> None:
    for shift in (0, 101):
        frames_TCHW = pixels.normalise((every_byte().int() + shift).to(torch.uint8))
        packed_TCHW = pack_pixels(frames_TCHW, pixels)
        assert packed_TCHW.dtype == torch.uint8
        assert torch.equal(unpack_pixels(packed_TCHW, pixels), frames_TCHW)


def test_an_erased_rectangle_is_kept_as_it_is() -> None:
    pixels = FORMATS[0]
    frames_TCHW = pixels.normalise(every_byte())
    frames_TCHW[:, :, 1:3, 2:5] = 0
    packed_TCHW = pack_pixels(frames_TCHW, pixels)
    assert packed_TCHW.dtype == torch.float32
    assert torch.equal(unpack_pixels(packed_TCHW, pixels), frames_TCHW)


def test_empty_frames_are_black_again() -> None:
    pixels, mask_T = FORMATS[0], torch.tensor([True, False, True, False])
    frames_TCHW = pixels.normalise(every_byte()) * mask_T[:, None, None, None]
    packed_TCHW = pack_pixels(frames_TCHW, pixels, mask_T)
    assert packed_TCHW.dtype == torch.uint8
    assert torch.equal(unpack_pixels(packed_TCHW, pixels, mask_T), frames_TCHW)
    assert pack_pixels(frames_TCHW, pixels).dtype == torch.float32


def test_the_order_in_memory_comes_back_too() -> None:
    pixels = FORMATS[0]
    frames_TCHW = pixels.normalise(every_byte().contiguous(memory_format=torch.channels_last))
    assert has_channels_last(frames_TCHW)
    packed_TCHW = pack_pixels(frames_TCHW, pixels).contiguous()
    again_TCHW = unpack_pixels(packed_TCHW, pixels, channels_last=True)
    assert again_TCHW.stride() == frames_TCHW.stride()
    assert not has_channels_last(unpack_pixels(packed_TCHW, pixels))
