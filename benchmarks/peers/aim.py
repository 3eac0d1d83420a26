"""AIM-style: the frozen attention runs a second time, over time, and four bottlenecks adapt every block.

Source: AIM, arXiv:2302.03024, with the second temporal adapter that the paper uses on Something-Something: one in front
of the temporal attention and one behind it, one behind the spatial attention, one beside the feed-forward network
(scaled by a half); each a quarter as wide as the model. Our own implementation; on post-norm trunks, which the paper
has not, each adapter sits where its branch enters or leaves the residual stream. A learned position in time is added
in front of the first block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peers.common import Bottleneck, FrameClassifier, attention_branch, feed_forward_branch
from side4video.backbones.timm_vit import TimmViT

RATIO = 4
JOINT_SCALE = 0.5
LONGEST = 64  # positions in time


class AimBlocks(nn.Module):
    """The trunk's blocks with temporal, spatial and joint adaptation."""

    def __init__(self, trunk: TimmViT) -> None:
        super().__init__()
        self.trunk = trunk
        self.position_TD = nn.Parameter(torch.zeros(LONGEST, trunk.width))
        # name -> whether the adapter adds its input
        kinds = {"time_in": True, "time_out": False, "space": True, "joint": False}
        self.adapters = nn.ModuleList(
            nn.ModuleDict({n: Bottleneck(trunk.width, trunk.width // RATIO, skip=s) for n, s in kinds.items()})
            for _ in range(trunk.depth)
        )

    def forward(self, index: int, tokens_IAD: Tensor, context: Any, num_frames: int) -> Tensor:  # noqa: ARG002
        """Block `index`."""
        block, adapters = self.trunk.model.blocks[index], self.adapters[index]
        assert isinstance(adapters, nn.ModuleDict)
        if index == 0:
            time_T1D = self.position_TD[:num_frames].unsqueeze(1).to(tokens_IAD.dtype)
            tokens_IAD = (tokens_IAD.unflatten(0, (-1, num_frames)) + time_T1D).flatten(0, 1)
        # G: clip x place, the groups within which frames attend
        tokens_BTAD = tokens_IAD.unflatten(0, (-1, num_frames))
        tokens_GTD = tokens_BTAD.transpose(1, 2).flatten(0, 1)
        mixed_GTD = adapters["time_out"](attention_branch(block, tokens_GTD, before=adapters["time_in"]))
        mixed_BTAD = mixed_GTD.unflatten(0, (tokens_BTAD.shape[0], -1)).transpose(1, 2)
        tokens_IAD = tokens_IAD + mixed_BTAD.flatten(0, 1)
        tokens_IAD = tokens_IAD + adapters["space"](attention_branch(block, tokens_IAD))
        change_IAD, seen_IAD = feed_forward_branch(block, tokens_IAD)
        return tokens_IAD + change_IAD + JOINT_SCALE * adapters["joint"](seen_IAD)


def aim(trunk: TimmViT, num_classes: int, *, checkpointed: bool) -> FrameClassifier:
    """Adapters a quarter as wide as the trunk."""
    return FrameClassifier(AimBlocks(trunk), num_classes, checkpointed=checkpointed)
