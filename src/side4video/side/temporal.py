"""How a side block mixes frames: a depthwise temporal convolution, temporal attention, or not at all.

Both work on tokens in BTNS order, channels last: a 1x1x1 convolution is then a linear map, and neighbours in time are
whole contiguous frames, so nothing is ever rearranged.

Source: Side4Video, arXiv:2311.15769, "Side4Video", temporal convolution and its ablation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from side4video.side.kernels import apply_linear, depthwise_rows, has_kernels


class TemporalConv(nn.Module):
    """1x1x1 convolution, depthwise over time with zero padding, 1x1x1 convolution; no activation between."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.pointwise_in = nn.Linear(width, width)
        self.depthwise = DepthwiseTime(width, kernel)
        self.pointwise_out = nn.Linear(width, width)

    @property
    def last(self) -> nn.Linear:
        """The linear map that ends it."""
        return self.pointwise_out

    def inner(self, x_BTNS: Tensor) -> Tensor:
        """All but the last linear map."""
        return self.depthwise(apply_linear(self.pointwise_in, x_BTNS))

    def forward(self, x_BTNS: Tensor) -> Tensor:
        return self.last(self.inner(x_BTNS))


class DepthwiseTime(nn.Module):
    """One filter over time for every channel. `weight` is (S, kernel): a Conv3d's (S, 1, kernel, 1, 1) without ones."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, kernel))
        self.bias = nn.Parameter(torch.empty(width))
        bound = 1 / math.sqrt(kernel)  # PyTorch's default for a convolution of this fan-in
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x_BTNS: Tensor) -> Tensor:
        # by hand in the precision of the tokens: autocast would leave these operations alone
        weight_SK, bias_S = self.weight.to(x_BTNS.dtype), self.bias.to(x_BTNS.dtype)
        if weight_SK.shape[1] > 1 and has_kernels(x_BTNS, x_BTNS.dtype):  # at a kernel of 1 it is slow
            return depthwise_rows(x_BTNS, weight_SK, bias_S)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            out: Tensor = _DepthwiseTime.apply(x_BTNS, weight_SK, bias_S)  # pyright: ignore[reportAssignmentType]
            return out
        return depthwise_time(x_BTNS, weight_SK, bias_S)


def depthwise_time(x_BTNS: Tensor, weight_SK: Tensor, bias_S: Tensor) -> Tensor:
    """Frame t is the sum of `weight[:, k] * x[t + k - K // 2]` over K offsets; frames outside the clip are zero."""
    num_frames, kernel = x_BTNS.shape[1], weight_SK.shape[1]
    reach = kernel // 2
    weights = weight_SK.unbind(1)
    padded_BTNS = F.pad(x_BTNS, (0, 0, 0, 0, reach, reach))
    y_BTNS = torch.addcmul(bias_S, x_BTNS, weights[reach])
    for offset in range(kernel):
        if offset != reach:
            y_BTNS = torch.addcmul(y_BTNS, padded_BTNS[:, offset : offset + num_frames], weights[offset])
    return y_BTNS


class _DepthwiseTime(torch.autograd.Function):
    """The same without a padded copy: autograd would write a tensor of zeros for every shifted view."""

    @staticmethod
    def forward(ctx: Any, x_BTNS: Tensor, weight_SK: Tensor, bias_S: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTNS, weight_SK)
        reach = weight_SK.shape[1] // 2
        weights = weight_SK.unbind(1)
        y_BTNS = torch.addcmul(bias_S, x_BTNS, weights[reach])
        for offset, weight_S in enumerate(weights):
            here, there = _frames(x_BTNS.shape[1], offset - reach)
            if offset != reach:
                y_BTNS[:, here].addcmul_(x_BTNS[:, there], weight_S)
        return y_BTNS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad_BTNS,) = grads
        x_BTNS, weight_SK = ctx.saved_tensors
        reach = weight_SK.shape[1] // 2
        weights = weight_SK.unbind(1)
        x_grad_BTNS = grad_BTNS * weights[reach] if ctx.needs_input_grad[0] else None
        weight_grads: list[Tensor] = []
        for offset, weight_S in enumerate(weights):
            here, there = _frames(x_BTNS.shape[1], offset - reach)
            if x_grad_BTNS is not None and offset != reach:
                x_grad_BTNS[:, there].addcmul_(grad_BTNS[:, here], weight_S)
            weight_grads.append((grad_BTNS[:, here] * x_BTNS[:, there]).sum((0, 1, 2)))
        return x_grad_BTNS, torch.stack(weight_grads, 1), grad_BTNS.sum((0, 1, 2))


def _frames(num_frames: int, shift: int) -> tuple[slice, slice]:
    """The frames that have one `shift` frames later, and those later ones."""
    length = max(0, num_frames - abs(shift))
    return slice(max(0, -shift), max(0, -shift) + length), slice(max(0, shift), max(0, shift) + length)


class TemporalAttention(nn.Module):
    """Self-attention over the frames of each patch place: the paper's alternative to the convolution."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    @property
    def last(self) -> nn.Linear:
        """The linear map that ends it."""
        return self.out

    def inner(self, x_BTNS: Tensor) -> Tensor:
        """All but the last linear map."""
        # G: batch x place, the groups within which frames attend
        x_GTS = x_BTNS.transpose(1, 2).flatten(0, 1)
        query, key, value = apply_linear(self.qkv, x_GTS).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_GTS = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        return mixed_GTS.unflatten(0, (x_BTNS.shape[0], -1)).transpose(1, 2)

    def forward(self, x_BTNS: Tensor) -> Tensor:
        return self.last(self.inner(x_BTNS))
