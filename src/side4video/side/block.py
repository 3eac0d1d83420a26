"""One side block: frames mix, then patches mix inside each frame, then a feed-forward network.

Every dialect is this block. With `norm_order="pre"` (CLIP) a part computes `x + part(norm(x))`, with `"post"` (EVA)
`x + norm(part(x))`; the norm of the spatial attention is a layer norm, the other two are batch norms (or layer norms).

Source: Side4Video, arXiv:2311.15769, "Side4Video", and the released code's `AttnCBlock`.
Shapes: M, tokens of a frame in the side stream: its N patches, after one carried token when there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.side.kernels import apply_linear
from side4video.side.norms import apply_norm, layer_norm, make_norm, runs_on_cpu
from side4video.side.recompute import Run, run_plain
from side4video.side.spec import SideSpec
from side4video.side.temporal import TemporalAttention, TemporalConv

MLP_RATIO = 4


@dataclass(frozen=True)
class BlockRuns:
    """How each part of a side block is run."""

    temporal: Run = run_plain
    attention: Run = run_plain
    mlp: Run = run_plain


PLAIN = BlockRuns()


class SideBlock(nn.Module):
    """Temporal mixing, spatial attention and feed-forward network on the side stream, S wide."""

    def __init__(self, spec: SideSpec) -> None:
        super().__init__()
        self.pre_norm = spec.norm_order == "pre"
        self.temporal: TemporalConv | TemporalAttention | None = None
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
        self._compiled: dict[str, Callable[..., Tensor]] = {}

    def forward(
        self,
        side_BTMS: Tensor,
        class_BTS: Tensor,
        position_QS: Tensor,
        runs: BlockRuns = PLAIN,
    ) -> Tensor:
        """One block.

        `class_BTS` is the class token that joins each frame's keys and values, already shifted. `position_QS` holds
        one row for that token and one for each of the M tokens; it is added to the attention's input only.
        """
        side_BTMS = self._mix(side_BTMS, class_BTS, position_QS, runs)
        return side_BTMS + self._feed_forward(side_BTMS, runs.mlp)

    def for_gradient(
        self, side_BTMS: Tensor, class_BTS: Tensor, position_QS: Tensor, runs: BlockRuns
    ) -> tuple[Tensor, Tensor]:
        """Two terms whose sum stands for the block's output when only its gradient is wanted: the numbers of the second
        may be any."""
        side_BTMS = self._mix(side_BTMS, class_BTS, position_QS, runs)
        return side_BTMS, self._feed_forward(side_BTMS, runs.mlp, needed=False)

    def compile_parts(self, **options: Any) -> None:
        """Let torch.compile make one program of the block, and one of each part for when it is run by itself."""
        self.compile(**options)
        self._compiled = {
            name: torch.compile(part.inner, **options)
            for name, part in (("temporal", self.temporal), ("mlp", self.mlp))
            if part is not None
        }
        self._compiled["attention"] = torch.compile(self._attend, **options)

    def _mix(self, side_BTMS: Tensor, class_BTS: Tensor, position_QS: Tensor, runs: BlockRuns) -> Tensor:
        """The stream after time and space, before the feed-forward network."""
        if self.temporal is not None and self.temporal_norm is not None:
            inner = self._compiled.get("temporal", self.temporal.inner)
            mixed_BTMS = self._normed(self.temporal, inner, self.temporal_norm, side_BTMS, runs.temporal)
            side_BTMS = side_BTMS + mixed_BTMS
        modules = (self.attention, self.attention_norm)
        inputs = (side_BTMS, class_BTS)
        attend = self._compiled.get("attention", self._attend)
        mixed_BTMS = runs.attention(attend, self.attention.last, modules, inputs, (position_QS,))
        return side_BTMS + (mixed_BTMS if self.pre_norm else layer_norm(self.attention_norm, mixed_BTMS))

    def _feed_forward(self, side_BTMS: Tensor, run: Run, *, needed: bool = True) -> Tensor:
        inner = self._compiled.get("mlp", self.mlp.inner)
        return self._normed(self.mlp, inner, self.mlp_norm, side_BTMS, run, needed=needed)

    def _normed(
        self,
        part: TemporalConv | TemporalAttention | FeedForward,
        inner: Callable[[Tensor], Tensor],
        norm: nn.Module,
        x_BTMS: Tensor,
        run: Run,
        *,
        needed: bool = True,
    ) -> Tensor:
        if self.pre_norm:
            return run(inner, part.last, (part,), (apply_norm(norm, x_BTMS),), needed=needed)
        return apply_norm(norm, run(inner, part.last, (part,), (x_BTMS,)))

    def _attend(self, side_BTMS: Tensor, class_BTS: Tensor, position_QS: Tensor) -> Tensor:
        tokens_BTQS = torch.cat([class_BTS.unsqueeze(2), side_BTMS], dim=2) + position_QS.to(side_BTMS.dtype)
        return self.attention.inner(layer_norm(self.attention_norm, tokens_BTQS) if self.pre_norm else tokens_BTQS)


class SpatialAttention(nn.Module):
    """Self-attention inside a frame. Token 0, the class token, is a key and a value but not a query."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    @property
    def last(self) -> nn.Linear:
        """The linear map that ends it."""
        return self.out

    def inner(self, tokens_BTQS: Tensor) -> Tensor:
        """All but the last linear map."""
        tokens_IQS = tokens_BTQS.flatten(0, 1)
        query, key, value = (
            apply_linear(self.qkv, tokens_IQS).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed_IMS = attend(query[:, :, 1:], key, value).transpose(1, 2).flatten(-2)
        return mixed_IMS.unflatten(0, tokens_BTQS.shape[:2])

    def forward(self, tokens_BTQS: Tensor) -> Tensor:
        """Mixed tokens without the class token: BTQS in, BTMS out, M = Q - 1."""
        return self.last(self.inner(tokens_BTQS))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention over the last two axes but one, by the fastest way of the device."""
    if query.dtype == torch.bfloat16 and runs_on_cpu(query):
        # there the fused kernel's backward pass is slow: forward and backward take 31 ms for 13 in plain products
        # (8 frames, 5 heads of 64, one core with bf16 units)
        weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return weights.softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class FeedForward(nn.Module):
    """Linear map to four times the width, erf GELU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    @property
    def last(self) -> nn.Linear:
        """The linear map that ends it."""
        return self.fc2

    def inner(self, x_BTMS: Tensor) -> Tensor:
        """All but the last linear map."""
        return apply_linear(self.fc1, x_BTMS, gelu=True)

    def forward(self, x_BTMS: Tensor) -> Tensor:
        return self.last(self.inner(x_BTMS))
