"""Weight matrices in fewer bits, and back: approximate, as each name says. Weights only; arithmetic stays as it is.

`int8`: one scale for each row (output channel), the largest value becomes 127. `fp8`: e4m3, one scale for each row.
`int4`: two values a byte, one scale for every 64 inputs of a row, the largest value becomes 7.

Rows are output channels, columns everything else. The measured effect on the side network's gradients is in docs,
"Memory"; `benchmarks/quantised_gradients.py` makes those numbers.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from side4video.errors import BackboneError

Quantisation = Literal["none", "int8", "fp8", "int4"]
FP8 = torch.float8_e4m3fn
GROUP = 64
# norms, biases, tables of relative positions are left alone: they are small, and rows of theirs are no channels
SMALLEST_SIDE = 32


def check_quantisation(choice: str) -> None:
    """Whether there is such a kind.

    Raises:
        BackboneError: there is none.
    """
    if choice not in get_args(Quantisation):
        raise BackboneError(f"quantise: got {choice!r}, allowed are {', '.join(get_args(Quantisation))}")


def is_matrix(value: Tensor) -> bool:
    """Whether a parameter is kept in fewer bits."""
    if not value.is_floating_point() or value.ndim < 2:
        return False
    rows, columns = value.shape[0], value.numel() // max(1, value.shape[0])
    return min(rows, columns) >= SMALLEST_SIDE and math.gcd(columns, GROUP) >= SMALLEST_SIDE // 2


def pack(weight: Tensor, kind: Quantisation) -> tuple[Tensor, Tensor]:
    """A matrix as values and float32 scales."""
    weight_RC = weight.detach().flatten(1).float()
    if kind == "int4":
        groups_RGC = weight_RC.unflatten(1, (-1, math.gcd(weight_RC.shape[1], GROUP)))
        scale_RG1 = _scale(groups_RGC, 7)
        codes_RC = (groups_RGC / scale_RG1).round().add(8).flatten(1).to(torch.uint8)
        return codes_RC[:, 0::2] | codes_RC[:, 1::2] << 4, scale_RG1
    if kind == "fp8":
        scale_R1 = _scale(weight_RC, torch.finfo(FP8).max)
        return (weight_RC / scale_R1).to(FP8), scale_R1
    scale_R1 = _scale(weight_RC, 127)
    return (weight_RC / scale_R1).round().to(torch.int8), scale_R1


def unpack(values: Tensor, scale: Tensor, kind: Quantisation, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The matrix that `pack` was given, approximately, in `dtype`: products are rounded to it once."""
    if kind == "int4":
        codes_RC2 = torch.stack([values & 15, values >> 4], dim=-1)
        groups_RGC = codes_RC2.flatten(1).unflatten(1, (scale.shape[1], -1)).to(dtype).sub_(8)
        return groups_RGC.mul_(scale).view(shape)
    return values.to(dtype).mul_(scale).view(shape)


def _scale(values: Tensor, largest: float) -> Tensor:
    scale = values.abs().amax(-1, keepdim=True) / largest
    # a row of zeros has no scale; any will do
    return torch.where(scale == 0, torch.ones_like(scale), scale)
