"""One side block: frames mix, then patches mix inside each frame, then a feed-forward network.

Every dialect is this block. With `norm_order="pre"` (CLIP) a part computes `x + part(norm(x))`, with `"post"` (EVA)
`x + norm(part(x))`; the norm of the spatial attention is a layer norm, the other two are batch norms (or layer norms).

Source: Side4Video, arXiv:2311.15769, "Side4Video", and the released code's `AttnCBlock`.
Shapes: M, tokens of a frame in the side stream: its N patches, after one carried token when there is one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.side.recompute import Run, run_plain
from side4video.side.spec import SideSpec
from side4video.side.temporal import TemporalAttention, TemporalConv

MLP_RATIO = 4


class SideBlock(nn.Module):
    """Temporal mixing, spatial attention and feed-forward network on the side stream, S wide."""

    def __init__(self, spec: SideSpec) -> None:
        super().__init__()
        self.pre_norm = spec.norm_order == "pre"
        self.temporal: nn.Module | None = None
        self.temporal_norm: nn.Module | None = None
        if spec.temporal == "conv":
            self.temporal = TemporalConv(spec.width, spec.temporal_kernel)
        elif spec.temporal == "attention":
            self.temporal = TemporalAttention(spec.width, spec.heads)
        if self.temporal is not None:
            self.temporal_norm = make_norm(spec)
        self.attention = SpatialAttention(spec.width, spec.heads)
        self.attention_norm = nn.LayerNorm(spec.width)
        self.mlp = FeedForward(spec.width)
        self.mlp_norm = make_norm(spec)

    def forward(self, side_BTMS: Tensor, class_BTS: Tensor, position_QS: Tensor, run: Run = run_plain) -> Tensor:
        """One block.

        `class_BTS` is the class token that joins each frame's keys and values, already shifted. `position_QS` holds
        one row for that token and one for each of the M tokens; it is added to the attention's input only. `run` runs
        each of the parts.
        """
        if self.temporal is not None and self.temporal_norm is not None:
            side_BTMS = side_BTMS + run(self._mix_time, (self.temporal, self.temporal_norm), side_BTMS)
        attention = (self.attention, self.attention_norm)
        side_BTMS = side_BTMS + run(self._attend, attention, side_BTMS, class_BTS, position_QS)
        return side_BTMS + run(self._feed_forward, (self.mlp, self.mlp_norm), side_BTMS)

    def _mix_time(self, side_BTMS: Tensor) -> Tensor:
        assert self.temporal is not None
        assert self.temporal_norm is not None
        return self._normed(self.temporal, self.temporal_norm, side_BTMS)

    def _feed_forward(self, side_BTMS: Tensor) -> Tensor:
        return self._normed(self.mlp, self.mlp_norm, side_BTMS)

    def _normed(self, part: nn.Module, norm: nn.Module, x_BTMS: Tensor) -> Tensor:
        return part(apply_norm(norm, x_BTMS)) if self.pre_norm else apply_norm(norm, part(x_BTMS))

    def _attend(self, side_BTMS: Tensor, class_BTS: Tensor, position_QS: Tensor) -> Tensor:
        tokens_BTQS = torch.cat([class_BTS.unsqueeze(2), side_BTMS], dim=2) + position_QS.to(side_BTMS.dtype)
        if self.pre_norm:
            return self.attention(self.attention_norm(tokens_BTQS))
        return self.attention_norm(self.attention(tokens_BTQS))


class SpatialAttention(nn.Module):
    """Self-attention inside a frame. Token 0, the class token, is a key and a value but not a query."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens_BTQS: Tensor) -> Tensor:
        """Mixed tokens without the class token: BTQS in, BTMS out, M = Q - 1."""
        tokens_IQS = tokens_BTQS.flatten(0, 1)
        query, key, value = self.qkv(tokens_IQS).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_IMS = F.scaled_dot_product_attention(query[:, :, 1:], key, value).transpose(1, 2).flatten(-2)
        return self.out(mixed_IMS).unflatten(0, tokens_BTQS.shape[:2])


class FeedForward(nn.Module):
    """Linear map to four times the width, erf GELU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x_BTMS: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BTMS)))


def make_norm(spec: SideSpec) -> nn.Module:
    """The norm around convolution and feed-forward network: over all tokens of the batch, or within each token."""
    return nn.BatchNorm1d(spec.width) if spec.norm == "batch" else nn.LayerNorm(spec.width)


def apply_norm(norm: nn.Module, x_BTMS: Tensor) -> Tensor:
    """Normalise the channels of tokens: batch norm's statistics run over everything but the channels."""
    if type(norm) is nn.BatchNorm1d and x_BTMS.device.type == "cpu":
        # torch's CPU kernel for rows of channels sums naively in float32, twenty times the error of this one
        x_ISM = x_BTMS.flatten(0, 1).transpose(1, 2)
        return norm(x_ISM).transpose(1, 2).unflatten(0, x_BTMS.shape[:2])
    return norm(x_BTMS.flatten(0, -2)).view(x_BTMS.shape)
