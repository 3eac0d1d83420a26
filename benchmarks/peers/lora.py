"""LoRA by the library peft: low-rank changes of the attention's linear maps in every block.

Source: LoRA, arXiv:2106.09685. It has no part that mixes frames; memory and arithmetic are what is compared.
"""

from __future__ import annotations

import peft

from peers.common import FrameClassifier
from peers.full import PlainBlocks
from side4video.backbones.timm_vit import TimmViT

RANK = 16


def lora(trunk: TimmViT, num_classes: int, *, checkpointed: bool) -> FrameClassifier:
    """Rank 16 on queries, keys, values (one fused map) and on the output map."""
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=r"blocks\.\d+\.attn\.(qkv|proj)")
    peft.inject_adapter_in_model(config, trunk.model)
    for parameter in trunk.parameters():
        if parameter.requires_grad:  # the optimiser's copies are float32, as peft makes them by default
            parameter.data = parameter.data.float()
    return FrameClassifier(PlainBlocks(trunk), num_classes, checkpointed=checkpointed)
