"""How a new side network starts: the three initialisations of the released code, and one that starts as the identity.

Recognition with CLIP: MLP and attention as in CLIP, positions 0.01, all else PyTorch's default. Recognition and
retrieval with EVA: PyTorch's default throughout, positions 0.02. Retrieval with CLIP: every linear map normal 0.02
with zero bias. `identity` makes the last linear map of each part (or its norm, when that comes last) zero.

Source: the released code; its statistics are checked in `tests/reference/test_side_init.py`. We differ in one point:
the released code then rounds some of these random weights to half precision once; we do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from side4video.side.block import SideBlock
from side4video.side.fusion import Projection
from side4video.side.spec import SideSpec
from side4video.side.temporal import DepthwiseTime, TemporalAttention, TemporalConv

# the released code scales by 2 x 12 whatever the depth of the backbone is
OFFICIAL_DEPTH_FACTOR = (2 * 12) ** -0.5
POSITION_STD = {"clip": 0.01, "eva": 0.02, "clip_retrieval": 0.01, "identity": 0.01}


@torch.no_grad()
def initialise(network: nn.Module, spec: SideSpec, generator: torch.Generator | None) -> None:
    """Fill the network's parameters in place. With a generator every random value comes from it alone."""
    if generator is not None:
        _reset_from(network, generator)
    _normal(network.get_parameter("position"), POSITION_STD[spec.init], generator)
    if spec.representation == "extra":
        _normal(network.get_parameter("extra.token"), POSITION_STD[spec.init], generator)
    for block in cast("Iterable[SideBlock]", network.get_submodule("blocks")):
        if spec.init == "clip":
            _clip_block(block, spec.width, generator)
        elif spec.init == "clip_retrieval":
            _retrieval_block(block, spec.width, generator)
        elif spec.init == "identity":
            _identity_block(block)
    if spec.init == "clip_retrieval":
        for projection in cast("Iterable[Projection]", network.get_submodule("projections")):
            _linear(projection.linear, 0.02, generator)


def _clip_block(block: SideBlock, width: int, generator: torch.Generator | None) -> None:
    _normal(block.mlp.fc1.weight, (2 * width) ** -0.5, generator)
    _normal(block.mlp.fc2.weight, width**-0.5 * OFFICIAL_DEPTH_FACTOR, generator)
    _linear(block.attention.qkv, width**-0.5, generator)
    _linear(block.attention.out, width**-0.5 * OFFICIAL_DEPTH_FACTOR, generator)


def _retrieval_block(block: SideBlock, width: int, generator: torch.Generator | None) -> None:
    _linear(block.mlp.fc1, 0.02, generator)
    _linear(block.mlp.fc2, 0.02, generator)
    _linear(block.attention.qkv, width**-0.5, generator)
    _linear(block.attention.out, 0.02, generator)
    if isinstance(block.temporal, TemporalConv):
        _normal(block.temporal.pointwise_in.weight, 0.02, generator)
        _normal(block.temporal.pointwise_out.weight, 0.02, generator)
        _normal(block.temporal.depthwise.weight, width**-0.5, generator)


def _identity_block(block: SideBlock) -> None:
    if block.pre_norm:
        last: list[nn.Module] = [block.attention.out, block.mlp.fc2]
        if isinstance(block.temporal, TemporalConv):
            last.append(block.temporal.pointwise_out)
        elif isinstance(block.temporal, TemporalAttention):
            last.append(block.temporal.out)
    else:
        last = [block.attention_norm, block.mlp_norm]
        if block.temporal_norm is not None:
            last.append(block.temporal_norm)
    for module in last:
        nn.init.zeros_(module.get_parameter("weight"))
        nn.init.zeros_(module.get_parameter("bias"))


def _reset_from(network: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's default initialisation, drawn from a generator: uniform within 1/sqrt(fan-in), norms left alone."""
    for module in network.modules():
        weight = getattr(module, "weight", None)
        bias = getattr(module, "bias", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            fan_in = weight.shape[1] if isinstance(module, DepthwiseTime) else weight[0].numel()
            weight.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            if isinstance(bias, Tensor):
                bias.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)


def _linear(linear: nn.Linear, std: float, generator: torch.Generator | None) -> None:
    _normal(linear.weight, std, generator)
    nn.init.zeros_(linear.bias)


def _normal(parameter: Tensor, std: float, generator: torch.Generator | None) -> None:
    nn.init.normal_(parameter, std=std, generator=generator)
