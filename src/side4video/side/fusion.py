"""Where the frozen tokens enter: the projection to the side width, and the average with the side stream.

Source: Side4Video, arXiv:2311.15769, "Side4Video", fusion of ladder features. The released code puts the layer norm
before the linear map for CLIP and after it for EVA; both are settings of one module here.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.side.norms import layer_norm, own_precision

NormedTokens = dict[tuple[torch.dtype, float], Tensor]
"""A frozen block's tokens behind the layer norm of a projection, which has no weights of its own (`Projection.last`):
the same for every side network that computes in that precision with that epsilon."""


class Projection(nn.Module):
    """Layer norm and linear map from the backbone's width D to the side width S, in either order."""

    def __init__(self, backbone_width: int, width: int, *, norm_at: Literal["input", "output"]) -> None:
        super().__init__()
        self.norm_at = norm_at
        self.norm = nn.LayerNorm(backbone_width if norm_at == "input" else width)
        self.linear = nn.Linear(backbone_width, width)

    def last(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of the linear map, where it comes last, with the norm's own in them.

        `W(g * x + b) + c` is `(W * g) x + (Wb + c)`. In the second form the gradients of g and b come from those of
        the matrix, so that nothing is ever computed for the gradient of the tokens, which nobody wants.
        """
        if self.norm_at != "input":
            return None
        weight_SD = self.linear.weight
        return weight_SD * self.norm.weight, self.linear.bias + (weight_SD * self.norm.bias).sum(1)

    def inner(self, tokens_BTAD: Tensor, known: NormedTokens | None = None) -> Tensor:
        """All that comes before `last`; `known` is where others may have left it."""
        if known is None or self.norm_at != "input":
            return self._inner(tokens_BTAD)
        key = (self.linear.weight.dtype, self.norm.eps)
        if key not in known:
            known[key] = self._inner(tokens_BTAD)
        return known[key]

    def _inner(self, tokens_BTAD: Tensor) -> Tensor:
        if tokens_BTAD.is_meta or not torch.is_autocast_enabled(tokens_BTAD.device.type):
            # the backbone may run in another precision than the side network
            tokens_BTAD = tokens_BTAD.to(self.linear.weight.dtype)
        if self.norm_at != "input":
            return layer_norm(self.norm, self.linear(tokens_BTAD))
        with own_precision(tokens_BTAD):
            return F.layer_norm(tokens_BTAD, self.norm.normalized_shape, eps=self.norm.eps)

    def forward(self, tokens_BTAD: Tensor) -> Tensor:
        inner, last = self.inner(tokens_BTAD), self.last()
        return inner if last is None else F.linear(inner, *last)


def fuse(side_BTNS: Tensor | None, projected_BTNS: Tensor) -> Tensor:
    """The mean of the side stream and the projected frozen tokens; the tokens alone when there is no stream yet."""
    return projected_BTNS if side_BTNS is None else (side_BTNS + projected_BTNS).mul_(0.5)


def shift_class_tokens(class_BTS: Tensor) -> Tensor:
    """Each frame's token made of its neighbours: first half of the channels from the next frame, second half from the
    previous one, zeros where there is none. No channel keeps its own frame."""
    half = class_BTS.shape[-1] // 2
    zeros_B1S = class_BTS.new_zeros(class_BTS.shape[0], 1, class_BTS.shape[-1])
    from_next_BTS = torch.cat([class_BTS[:, 1:, :half], zeros_B1S[..., :half]], dim=1)
    from_previous_BTS = torch.cat([zeros_B1S[..., half:], class_BTS[:, :-1, half:]], dim=1)
    return torch.cat([from_next_BTS, from_previous_BTS], dim=-1)
