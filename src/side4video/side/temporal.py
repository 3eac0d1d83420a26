"""How a side block mixes frames: a depthwise temporal convolution, temporal attention, or not at all.

Both work on tokens in BTNS order, channels last: a 1x1x1 convolution is then a linear map, and neighbours in time are
whole contiguous frames, so nothing is ever rearranged.

Source: Side4Video, arXiv:2311.15769, "Side4Video", temporal convolution and its ablation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        return self.depthwise(self.pointwise_in(x_BTNS))

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
        num_frames, kernel = x_BTNS.shape[1], self.weight.shape[1]
        reach = kernel // 2
        padded_BTNS = F.pad(x_BTNS, (0, 0, 0, 0, reach, reach))
        # addcmul knows no autocast: the small weights follow the tokens
        weight_S = self.weight.to(x_BTNS.dtype).unbind(1)
        y_BTNS = torch.addcmul(self.bias.to(x_BTNS.dtype), padded_BTNS[:, :num_frames], weight_S[0])
        for offset in range(1, kernel):
            y_BTNS = torch.addcmul(y_BTNS, padded_BTNS[:, offset : offset + num_frames], weight_S[offset])
        return y_BTNS


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
        query, key, value = self.qkv(x_GTS).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_GTS = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        return mixed_GTS.unflatten(0, (x_BTNS.shape[0], -1)).transpose(1, 2)

    def forward(self, x_BTNS: Tensor) -> Tensor:
        return self.last(self.inner(x_BTNS))
