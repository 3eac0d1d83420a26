"""A frozen model of real size with random weights, there in seconds: for measuring memory and time.

The libraries draw every weight of a ViT-E/14 in float32, which takes minutes and 17 GB of host memory, and a cast would
hash them all. Here the architecture is built without values, and each tensor is filled with the same few drawn numbers
in the precision that it will have.
"""

from __future__ import annotations

import open_clip
import torch
from torch import nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.build_open_clip import open_clip_tower, tower_trunk
from side4video.backbones.mapped import without_values
from side4video.backbones.quantised import Quantisation

DRAWN = 2**20


def random_backbone(
    name: str,
    *,
    quantise: Quantisation = "none",
    stream_weights: bool = False,
    precision: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> FrozenBackbone:
    """The image tower `open_clip:ARCH` (or `ARCH/PRETRAINED`, whose weights are not looked at)."""
    config = open_clip.get_model_config(name.removeprefix("open_clip:").partition("/")[0])
    assert config is not None, name
    with without_values():
        tower = open_clip_tower(config, {})
    drawn = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(precision)
    for module in tower.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            # norms at one, as trained ones are near: else many blocks shrink the tokens to nothing
            if "norm" in type(module).__name__.lower() and key == "weight":
                value = torch.ones(parameter.shape, dtype=precision)
            else:
                value = drawn.repeat(-(-parameter.numel() // DRAWN))[: parameter.numel()].view(parameter.shape).clone()
            setattr(module, key, nn.Parameter(value, requires_grad=False))
    trunk = tower_trunk(tower, label=name)
    backbone = FrozenBackbone(
        trunk, name=name, precision=precision, weights_hash="random", quantise=quantise, stream_weights=stream_weights
    )
    return backbone.to(device)
