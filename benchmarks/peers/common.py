"""What the peers share: the image trunk they all stand on, and the classifier around it.

Every peer is a module that runs the block `index` of a trunk, changed as its method wants: `AdaptedBlocks`.
`FrameClassifier` runs them one after the other, each inside `torch.utils.checkpoint` if asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from timm.models.eva import EvaBlockPostNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from side4video.backbones import FrozenBackbone, create_backbone
from side4video.backbones.timm_vit import TimmViT


class AdaptedBlocks(Protocol):
    """An `nn.Module` with the trunk inside it."""

    trunk: TimmViT

    def __call__(self, index: int, tokens_IAD: Tensor, context: Any, num_frames: int) -> Tensor:
        """The output of block `index`; images are clip by clip, `num_frames` each."""
        ...


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_backbone(name: str | nn.Module, *, precision: str) -> FrozenBackbone:
    """A frozen image model without weights, from a name or from a model on the meta device."""
    if isinstance(name, nn.Module):
        return create_backbone(name.to(PRECISIONS[precision]))
    return create_backbone(name, pretrained=False, precision=precision, device="meta")


def frozen_trunk(name: str | nn.Module, *, precision: str = "bf16") -> TimmViT:
    """A timm model whose weights need no gradient. Its norms stay in its precision, also inside autocast."""
    trunk = make_backbone(name, precision=precision).trunk
    assert isinstance(trunk, TimmViT)
    for module in list(trunk.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, child_name, OwnPrecision(child))
    for block in trunk.model.blocks:
        if hasattr(block.attn, "qkv_bias_separate"):
            # the same numbers; the linear map is then called as a module, which adapters and hooks need
            block.attn.qkv_bias_separate = True
    return trunk


def trained_trunk(name: str | nn.Module) -> TimmViT:
    """A timm model to be trained as a whole: float32 weights that need gradients."""
    trunk = make_backbone(name, precision="fp32").trunk
    assert isinstance(trunk, TimmViT)
    return trunk.requires_grad_(requires_grad=True)


class OwnPrecision(nn.Module):
    """Runs a module outside autocast, which would keep its inputs a second time in float32 on a GPU."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.inner(x)


class FrameClassifier(nn.Module):
    """Frames through a trunk with adapted blocks; the mean of their image features goes to a linear classifier.

    Images are `BTCHW` clips, normalised. `checkpointed` keeps only what enters each block.
    """

    def __init__(self, blocks: AdaptedBlocks, num_classes: int, *, checkpointed: bool) -> None:
        super().__init__()
        assert isinstance(blocks, nn.Module)
        self.blocks = blocks
        self.checkpointed = checkpointed
        self.head = nn.Linear(blocks.trunk.width, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """`logits_BK`."""
        trunk, num_frames = cast("AdaptedBlocks", self.blocks).trunk, clip_BTCHW.shape[1]
        tokens_IAD, context = trunk.embed(clip_BTCHW.flatten(0, 1))
        for index in range(trunk.depth):
            tokens_IAD = run(self.blocks, index, tokens_IAD, context, num_frames, checkpointed=self.checkpointed)
        return self.head(trunk.finish(tokens_IAD).unflatten(0, (-1, num_frames)).mean(1))


def run(function: Callable[..., Tensor], *arguments: Any, checkpointed: bool) -> Tensor:
    """Call a function of tensors, and keep only its arguments if asked."""
    if not checkpointed:
        return function(*arguments)
    # nothing here draws random numbers
    return cast("Tensor", checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False))


class Bottleneck(nn.Module):
    """Down to a narrow width, GELU, up again; with `skip` the input is added."""

    def __init__(self, width: int, narrow: int, *, skip: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        change = self.up(nn.functional.gelu(self.down(x)))
        return x + change if self.skip else change


def attention_branch(block: Any, tokens: Tensor, *, before: nn.Module | None = None) -> Tensor:
    """What a block's attention adds to its tokens; `before` runs right in front of the attention."""
    post = isinstance(block, EvaBlockPostNorm)
    x = tokens if post else block.norm1(tokens)
    x = block.attn(x if before is None else before(x))
    return block.norm1(x) if post else x


def feed_forward_branch(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What a block's feed-forward network adds to its tokens, and what that network saw."""
    if isinstance(block, EvaBlockPostNorm):
        return block.norm2(block.mlp(tokens)), tokens
    seen = block.norm2(tokens)
    return block.mlp(seen), seen
