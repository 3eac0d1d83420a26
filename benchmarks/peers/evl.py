"""EVL-style: a decoder beside the frozen model, one layer for each of its blocks, whose single query reads the clip.

Each layer adds to the block's tokens what a depthwise convolution over three frames makes of them, a position in time,
and what the frozen queries and keys say about neighbouring frames: their attention, averaged over heads, gathers
learned channel weights by the offset between the two patches. The query then attends to all tokens of the clip.

Source: EVL, arXiv:2208.03550. Our own implementation of the description, with as many layers as the model has blocks,
as the paper's figures for Something-Something need.
Shapes: M, all tokens of a clip; R, offsets between two patches.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.common import run
from side4video.backbones.timm_vit import TimmViT
from side4video.side.block import FeedForward
from side4video.side.temporal import DepthwiseTime

KERNEL = 3
LONGEST = 64  # positions in time


class Evl(nn.Module):
    """Clips to class scores."""

    def __init__(self, trunk: TimmViT, num_classes: int, *, checkpointed: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.checkpointed = checkpointed
        grid_YX = trunk.grid(trunk.preprocessing.image_size)
        self.query = nn.Parameter(torch.zeros(1, 1, trunk.width))
        heads = trunk.model.blocks[0].attn.num_heads
        self.layers = nn.ModuleList(_Layer(trunk.width, heads, grid_YX, trunk.num_prefix) for _ in range(trunk.depth))
        self.norm = nn.LayerNorm(trunk.width)
        self.head = nn.Linear(trunk.width, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """`logits_BK`."""
        shape = clip_BTCHW.shape[:2]
        query_B1D = self.query.expand(shape[0], -1, -1)
        with torch.no_grad():
            tokens_IAD, context = self.trunk.embed(clip_BTCHW.flatten(0, 1))
        for index, layer in enumerate(self.layers):
            with torch.no_grad():
                tokens_IAD, query_key = self._frozen(index, tokens_IAD, context)
            inputs = (x.unflatten(0, shape) for x in (tokens_IAD, query_key))
            query_B1D = run(layer, query_B1D, *inputs, checkpointed=self.checkpointed)
            del query_key, inputs
        return self.head(self.norm(query_B1D[:, 0]))

    def _frozen(self, index: int, tokens_IAD: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        """A block's output, and the patches' queries and keys inside it, beside each other in the last axis."""
        attention = self.trunk.model.blocks[index].attn
        seen: list[Tensor] = []
        hook = attention.qkv.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
        tokens_IAD = self.trunk.run_block(index, tokens_IAD, context)
        hook.remove()
        # a copy: a view would keep the values alive
        return tokens_IAD, seen.pop()[:, self.trunk.num_prefix :, : 2 * tokens_IAD.shape[-1]].clone()


class _Layer(nn.Module):
    def __init__(self, width: int, num_heads: int, grid_YX: tuple[int, int], num_prefix: int) -> None:
        super().__init__()
        self.num_prefix, self.num_heads = num_prefix, num_heads
        self.mix = DepthwiseTime(width, KERNEL)
        self.position_TD = nn.Parameter(torch.zeros(LONGEST, width))
        rows, columns = grid_YX
        offsets = (2 * rows - 1) * (2 * columns - 1)
        self.from_previous_RD = nn.Parameter(torch.zeros(offsets, width))
        self.from_next_RD = nn.Parameter(torch.zeros(offsets, width))
        self.grid_YX = grid_YX
        self.norm_tokens, self.norm_query, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.out, self.key_value = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
        )
        self.mlp = FeedForward(width)

    def forward(self, query_B1D: Tensor, tokens_BTAD: Tensor, query_key_BTNE: Tensor) -> Tensor:
        """The query after this layer; E holds the frozen queries and keys."""
        num_frames = tokens_BTAD.shape[1]
        time_TAD = self.position_TD[:num_frames].unsqueeze(1).to(tokens_BTAD.dtype)
        added_BTND = self._neighbours(query_key_BTNE).to(tokens_BTAD.dtype)
        added_BTAD = F.pad(added_BTND, (0, 0, self.num_prefix, 0))
        tokens_BTAD = tokens_BTAD + self.mix(tokens_BTAD) + time_TAD + added_BTAD
        tokens_BMD = self.norm_tokens(tokens_BTAD.flatten(1, 2))
        key, value = self.key_value(tokens_BMD).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query = self.query(self.norm_query(query_B1D)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        query_B1D = query_B1D + self.out(attended)
        return query_B1D + self.mlp(self.norm_mlp(query_B1D))

    def _neighbours(self, query_key_BTNE: Tensor) -> Tensor:
        query, key = query_key_BTNE.unflatten(-1, (2, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        offsets_NN = self._offsets(query.device)
        previous = _gather(query[:, 1:], key[:, :-1], self.from_previous_RD[offsets_NN])
        following = _gather(query[:, :-1], key[:, 1:], self.from_next_RD[offsets_NN])
        return F.pad(previous, (0, 0, 0, 0, 1, 0)) + F.pad(following, (0, 0, 0, 0, 0, 1))

    def _offsets(self, device: torch.device) -> Tensor:
        rows, columns = self.grid_YX
        y_N, x_N = (g.flatten() for g in torch.meshgrid(
            torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
        ))  # fmt: skip
        down_NN = y_N[:, None] - y_N[None] + rows - 1
        right_NN = x_N[:, None] - x_N[None] + columns - 1
        return down_NN * (2 * columns - 1) + right_NN


def _gather(query: Tensor, key: Tensor, weights_NND: Tensor) -> Tensor:
    """Frozen attention from each patch to another frame's patches, averaged over heads, applied to channel weights."""
    with torch.no_grad():
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        share_BTNN = scores.softmax(-1).mean(2)
    share_NIN = share_BTNN.flatten(0, 1).transpose(0, 1)
    return (share_NIN @ weights_NND.to(share_NIN.dtype)).transpose(0, 1).unflatten(0, share_BTNN.shape[:2])
