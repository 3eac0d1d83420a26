"""Saliency as colour over frames: red to yellow where it is, grey and dark where it is not."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# share of the strongest place -> colour and how much of it covers the picture
_STOPS = np.array([0.0, 0.25, 0.6, 1.0])
_COLOURS = np.array([[60, 0, 90], [190, 20, 60], [255, 120, 20], [255, 235, 90]], np.float32)
_COVER = np.array([0.0, 0.3, 0.55, 0.7])
_DIM = 0.55
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def overlay(frames_THWC: NDArray[np.uint8] | Tensor, maps_TYX: NDArray[np.float32] | Tensor) -> NDArray[np.uint8]:
    """uint8 RGB frames with their maps over them; the strongest place of the whole clip has the brightest colour.

    What does not matter is shown grey and darker. All maps are scaled by the same number, so moments can be compared.

    Raises:
        ValueError: frames that are not THWC uint8 RGB, maps that are not TYX of as many frames, below 0 or no numbers.
    """
    frames = np.asarray(frames_THWC)
    maps = torch.as_tensor(np.asarray(maps_TYX, dtype=np.float32))
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be THWC uint8 with 3 channels; got {frames.dtype} of shape {frames.shape}")
    if maps.ndim != 3 or len(maps) != len(frames):
        raise ValueError(f"maps must be TYX, one for each of {len(frames)} frames; got shape {tuple(maps.shape)}")
    if not bool((torch.isfinite(maps) & (maps >= 0)).all()):
        raise ValueError("maps must be numbers of at least 0")
    share_THW = _enlarged(maps, frames.shape[1:3])
    painted = [_painted(frame, share) for frame, share in zip(frames, share_THW, strict=True)]
    return np.stack(painted) if painted else frames.copy()


def _enlarged(maps_TYX: Tensor, size: tuple[int, ...]) -> NDArray[np.float32]:
    largest = float(maps_TYX.max()) if maps_TYX.numel() else 0.0
    if largest <= 0:
        return np.zeros((len(maps_TYX), *size), np.float32)
    share = F.interpolate((maps_TYX / largest)[:, None], size=size, mode="bilinear", align_corners=False)
    return share[:, 0].numpy()


def _painted(frame_HWC: NDArray[np.uint8], share_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    # the root makes weak places visible: shares fall off quickly from the strongest one
    strength_HW = np.sqrt(share_HW)
    colour_HWC = np.stack([np.interp(strength_HW, _STOPS, _COLOURS[:, c]) for c in range(3)], axis=-1)
    cover_HW1 = np.interp(strength_HW, _STOPS, _COVER)[..., None]
    grey_HW1 = (frame_HWC @ _GREY)[..., None] * _DIM
    keep_HW1 = np.clip(strength_HW * 2, 0, 1)[..., None]
    picture_HWC = grey_HW1 + (frame_HWC - grey_HW1) * keep_HW1
    mixed_HWC = picture_HWC + (colour_HWC - picture_HWC) * cover_HW1
    return np.clip(np.rint(mixed_HWC), 0, 255).astype(np.uint8)
