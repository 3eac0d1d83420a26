"""Linear and attentive probes on the last frozen block: no gradient enters the image model, nothing is kept there.

Source of the attentive probe: V-JEPA, arXiv:2404.08471: a learned query attends to all tokens of the clip, and a
feed-forward network follows. Our own implementation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.backbones.timm_vit import TimmViT
from side4video.side.block import FeedForward

HEAD_WIDTH = 64


class Probe(nn.Module):
    """A frozen trunk, `slice_frames` images at a time if given, and a trained head on its tokens."""

    def __init__(self, trunk: TimmViT, head: nn.Module, *, pooled: bool, slice_frames: int | None) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.pooled, self.slice_frames = pooled, slice_frames

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """`logits_BK`."""
        images_ICHW = clip_BTCHW.flatten(0, 1)
        with torch.no_grad():
            parts = [self._frozen(part) for part in images_ICHW.split(self.slice_frames or len(images_ICHW))]
            features = parts[0] if len(parts) == 1 else torch.cat(parts)
            del parts
        return self.head(features.unflatten(0, clip_BTCHW.shape[:2]))

    def _frozen(self, images_ICHW: Tensor) -> Tensor:
        tokens_IAD, context = self.trunk.embed(images_ICHW)
        for index in range(self.trunk.depth):
            tokens_IAD = self.trunk.run_block(index, tokens_IAD, context)
        return self.trunk.finish(tokens_IAD) if self.pooled else tokens_IAD


class MeanHead(nn.Module):
    """Mean over frames, linear classifier."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """`logits_BK`."""
        return self.linear(features_BTD.mean(1))


class AttentiveHead(nn.Module):
    """One learned query, cross-attention over all tokens of the clip, feed-forward network, linear classifier."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.norm_tokens, self.norm_query, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.mlp = FeedForward(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, tokens_BTAD: Tensor) -> Tensor:
        """`logits_BK`."""
        token_B1D = self.token.expand(tokens_BTAD.shape[0], -1, -1)
        attended = attend(self, self.norm_query(token_B1D), self.norm_tokens(tokens_BTAD.flatten(1, 2)))
        token_B1D = token_B1D + attended
        token_B1D = token_B1D + self.mlp(self.norm_mlp(token_B1D))
        return self.linear(token_B1D[:, 0])


def attend(module: AttentiveHead, query_B1D: Tensor, tokens_BMD: Tensor) -> Tensor:
    """Cross-attention of one query; M, all tokens of a clip."""
    query = module.query(query_B1D).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
    key, value = module.key_value(tokens_BMD).unflatten(-1, (2, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return module.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2))
