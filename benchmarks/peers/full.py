"""Full fine-tuning: every weight of the image model trains, in float32 with 16-bit arithmetic."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from peers.common import FrameClassifier
from side4video.backbones.timm_vit import TimmViT


class PlainBlocks(nn.Module):
    """The trunk's own blocks."""

    def __init__(self, trunk: TimmViT) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, index: int, tokens_IAD: Tensor, context: Any, num_frames: int) -> Tensor:  # noqa: ARG002
        """Block `index` of every frame by itself."""
        return self.trunk.run_block(index, tokens_IAD, context)


def full_fine_tuning(trunk: TimmViT, num_classes: int, *, checkpointed: bool) -> FrameClassifier:
    """All of it; the trunk's weights must be float32 and need gradients."""
    return FrameClassifier(PlainBlocks(trunk), num_classes, checkpointed=checkpointed)
