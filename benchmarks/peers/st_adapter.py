"""ST-Adapter-style: in front of every block, patches go down to 384 channels, mix over three frames, and up again.

Source: ST-Adapter, arXiv:2206.13559: one adapter before the attention of each block, a depthwise 3D convolution
(3 frames, one patch) between its two linear maps. Our own implementation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peers.common import FrameClassifier
from side4video.backbones.timm_vit import TimmViT
from side4video.side.temporal import DepthwiseTime

ADAPTER_WIDTH = 384
KERNEL = 3


class STAdapterBlocks(nn.Module):
    """The trunk's blocks, each with an adapter in front of it."""

    def __init__(self, trunk: TimmViT) -> None:
        super().__init__()
        self.trunk = trunk
        self.adapters = nn.ModuleList(
            nn.Sequential(
                nn.Linear(trunk.width, ADAPTER_WIDTH),
                DepthwiseTime(ADAPTER_WIDTH, KERNEL),
                nn.Linear(ADAPTER_WIDTH, trunk.width),
            )
            for _ in range(trunk.depth)
        )

    def forward(self, index: int, tokens_IAD: Tensor, context: Any, num_frames: int) -> Tensor:
        """Adapter on the patches, then block `index`."""
        prefix_IPD, patches_IND = tokens_IAD.split(
            [self.trunk.num_prefix, tokens_IAD.shape[1] - self.trunk.num_prefix], 1
        )
        change_BTND = self.adapters[index](patches_IND.unflatten(0, (-1, num_frames)))
        tokens_IAD = torch.cat([prefix_IPD, patches_IND + change_BTND.flatten(0, 1)], 1)
        return self.trunk.run_block(index, tokens_IAD, context)


def st_adapter(trunk: TimmViT, num_classes: int, *, checkpointed: bool) -> FrameClassifier:
    """Adapters of the published width, whatever the trunk's."""
    return FrameClassifier(STAdapterBlocks(trunk), num_classes, checkpointed=checkpointed)
