"""Side4Video as the authors' code lays it out, for comparison: the same mathematics, everything kept for backward.

Written from the description of the released model (its order of operations and tensor layouts), not from its source.
The side stream is a video, BSTYX, so that 3D convolutions and 3D batch norms apply to it; for attention it becomes a
sequence of tokens, (N, images, S), for the feed-forward network a grid with channels last, and back each time.

`ReleasedLayout` is the model, `pairs` says which of its parameters are which of ours; a test holds the two together.
Shapes: Q, the class token and the N patches of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone
from side4video.side.block import MLP_RATIO, SideBlock
from side4video.side.fusion import Projection
from side4video.side.network import STEM_FRAMES, Stem
from side4video.side.spec import SideSpec, resolve_taps
from side4video.side.temporal import TemporalConv
from side4video.tasks.recognition import VideoClassifier

# "fused" is what today's libraries offer, "plain" keeps the attention weights as libraries of the paper's time did
Attention = Literal["fused", "plain"]


class ReleasedLayout(nn.Module):
    """The published recogniser in the released layout: clips to class scores.

    The frozen blocks run as the caller's precision context says, over all frames at once. Only the two recognition
    dialects exist here; variants of the paper do not.

    Raises:
        ValueError: settings that the released code has not.
    """

    def __init__(
        self, backbone: FrozenBackbone, num_classes: int, spec: SideSpec, *, attention: Attention = "fused"
    ) -> None:
        super().__init__()
        if (spec.temporal, spec.shift, spec.representation, spec.stem, spec.norm, spec.position_on_class) != (
            "conv", True, "gap", True, "batch", False,
        ):  # fmt: skip
            raise ValueError(f"the released code has the published recognition dialects only; got {spec}")
        self.backbone = backbone
        self.taps = resolve_taps(spec.taps, backbone.depth)
        rows, columns = backbone.grid(backbone.preprocessing.image_size)
        patch = backbone.patch_size
        reach = STEM_FRAMES // 2
        self.stem = nn.Conv3d(3, spec.width, (STEM_FRAMES, *patch), stride=(1, *patch), padding=(reach, 0, 0))
        self.stem_norm = nn.BatchNorm3d(spec.width)
        self.position = nn.Parameter(torch.zeros(rows * columns, spec.width))
        self.projections = nn.ModuleList(_Projection(backbone.width, spec) for _ in self.taps)
        self.blocks = nn.ModuleList(_Block(spec, attention) for _ in self.taps)
        self.final_norm = nn.BatchNorm3d(spec.width) if spec.final_norm else nn.Identity()
        self.head = nn.Linear(spec.width, num_classes)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """`logits_BK`."""
        batch, num_frames = clip_BTCHW.shape[:2]
        side_BSTYX = self.stem_norm(self.stem(clip_BTCHW.transpose(1, 2)))
        shape_TYX = side_BSTYX.shape[2:]
        for index, tokens_IAD in enumerate(self._tapped(clip_BTCHW)):
            tokens_ASI = self.projections[index](tokens_IAD).permute(1, 2, 0)
            class_STB = tokens_ASI[0].unflatten(1, (batch, num_frames)).transpose(1, 2)
            patches_BSTYX = (
                tokens_ASI[1:].unflatten(2, (batch, num_frames)).permute(2, 1, 3, 0).unflatten(3, shape_TYX[1:])
            )
            side_BSTYX = 0.5 * side_BSTYX + 0.5 * patches_BSTYX
            side_BSTYX = self.blocks[index](side_BSTYX, _shifted(class_STB), self.position)
        return self.head(self.final_norm(side_BSTYX).mean((2, 3, 4)))

    def _tapped(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        trunk = self.backbone.trunk
        with torch.no_grad():
            tokens_IAD, context = trunk.embed(clip_BTCHW.flatten(0, 1))
        for index in range(max(self.taps) + 1):
            with torch.no_grad():
                tokens_IAD = trunk.run_block(index, tokens_IAD, context)
            if index in self.taps:
                yield tokens_IAD


class _Projection(nn.Module):
    def __init__(self, backbone_width: int, spec: SideSpec) -> None:
        super().__init__()
        self.norm_first = spec.projection_norm == "input"
        self.norm = nn.LayerNorm(backbone_width if self.norm_first else spec.width)
        self.linear = nn.Linear(backbone_width, spec.width)

    def forward(self, tokens_IAD: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(tokens_IAD.device.type):
            tokens_IAD = tokens_IAD.to(self.linear.weight.dtype)
        return self.linear(self.norm(tokens_IAD)) if self.norm_first else self.norm(self.linear(tokens_IAD))


class _Block(nn.Module):
    """Convolution over time, attention in each frame, feed-forward network, on a video."""

    def __init__(self, spec: SideSpec, attention: Attention) -> None:
        super().__init__()
        width, reach = spec.width, spec.temporal_kernel // 2
        self.pre_norm = spec.norm_order == "pre"
        self.conv = nn.Sequential(
            nn.Conv3d(width, width, 1),
            nn.Conv3d(width, width, (spec.temporal_kernel, 1, 1), padding=(reach, 0, 0), groups=width),
            nn.Conv3d(width, width, 1),
        )
        self.conv_norm = nn.BatchNorm3d(width)
        self.attention = _Attention(width, spec.heads, attention)
        self.attention_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))
        self.mlp_norm = nn.BatchNorm3d(width)

    def forward(self, side_BSTYX: Tensor, class_1IS: Tensor, position_NS: Tensor) -> Tensor:
        if self.pre_norm:
            side_BSTYX = side_BSTYX + self.conv(self.conv_norm(side_BSTYX))
            side_BSTYX = side_BSTYX + self._attend(side_BSTYX, class_1IS, position_NS)
            return side_BSTYX + self._feed_forward(self.mlp_norm(side_BSTYX))
        side_BSTYX = side_BSTYX + self.conv_norm(self.conv(side_BSTYX))
        side_BSTYX = side_BSTYX + self._attend(side_BSTYX, class_1IS, position_NS)
        return side_BSTYX + self.mlp_norm(self._feed_forward(side_BSTYX))

    def _attend(self, side_BSTYX: Tensor, class_1IS: Tensor, position_NS: Tensor) -> Tensor:
        batch, width, num_frames, rows, columns = side_BSTYX.shape
        patches_NIS = side_BSTYX.permute(3, 4, 0, 2, 1).reshape(rows * columns, batch * num_frames, width)
        tokens_QIS = torch.cat([class_1IS, patches_NIS + position_NS[:, None]])
        if self.pre_norm:
            mixed_NIS = self.attention(self.attention_norm(tokens_QIS))
        else:
            mixed_NIS = self.attention_norm(self.attention(tokens_QIS))
        return mixed_NIS.reshape(rows, columns, batch, num_frames, width).permute(2, 4, 3, 0, 1)

    def _feed_forward(self, side_BSTYX: Tensor) -> Tensor:
        return self.mlp(side_BSTYX.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class _Attention(nn.Module):
    """Queries are the patches, keys and values all tokens; tokens come as a sequence first."""

    def __init__(self, width: int, num_heads: int, kind: Attention) -> None:
        super().__init__()
        self.num_heads, self.kind = num_heads, kind
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, tokens_QIS: Tensor) -> Tensor:
        query, key, value = (
            x.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3)
            for x in (self.query(tokens_QIS[1:]), self.key(tokens_QIS), self.value(tokens_QIS))
        )
        if self.kind == "fused":
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            # mixed precision runs a softmax in float32 on a GPU; here it does everywhere
            weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
            mixed = weights.to(value.dtype) @ value
        return self.out(mixed.permute(2, 0, 1, 3).flatten(-2))


def _shifted(class_STB: Tensor) -> Tensor:
    """Class tokens of all images, (1, I, S): channels from the next frame, then from the previous one."""
    half = class_STB.shape[0] // 2
    shifted_STB = torch.zeros_like(class_STB)
    shifted_STB[:half, :-1] = class_STB[:half, 1:]
    shifted_STB[half:, 1:] = class_STB[half:, :-1]
    return shifted_STB.permute(2, 1, 0).flatten(0, 1).unsqueeze(0)


@dataclass(frozen=True)
class Pair:
    """A parameter here, the parameter of ours that it is (or is a part of), and that part in this shape."""

    name: str
    released: nn.Parameter
    ours: nn.Parameter
    part: Callable[[Tensor], Tensor]


def pairs(released: ReleasedLayout, ours: VideoClassifier) -> list[Pair]:
    """Every parameter of the released layout beside ours; for copying weights and for comparing gradients."""
    found: list[Pair] = []

    def pair(name: str, own: nn.Parameter | Tensor, other: nn.Parameter | Tensor, rows: slice = slice(None)) -> None:
        released_parameter, our_parameter = cast("nn.Parameter", own), cast("nn.Parameter", other)
        shape = released_parameter.shape
        found.append(Pair(name, released_parameter, our_parameter, lambda whole: whole[rows].reshape(shape)))

    def pair_affine(name: str, own: nn.Module, other: nn.Module) -> None:
        for part in ("weight", "bias"):
            pair(f"{name}.{part}", own.get_parameter(part), other.get_parameter(part))

    side = ours.side
    assert isinstance(side.stem, Stem)
    pair_affine("stem", released.stem, side.stem)
    pair_affine("stem_norm", released.stem_norm, side.stem.norm)
    pair("position", released.position, side.position)
    pair_affine("head", released.head, ours.head)
    if side.norm is not None:
        pair_affine("final_norm", released.final_norm, side.norm)
    for index in range(len(released.blocks)):
        own, other = cast("_Block", released.blocks[index]), cast("SideBlock", side.blocks[index])
        projection, our_projection = released.projections[index], cast("Projection", side.projections[index])
        for part in ("norm", "linear"):
            pair_affine(
                f"projections.{index}.{part}", projection.get_submodule(part), our_projection.get_submodule(part)
            )
        assert isinstance(other.temporal, TemporalConv)
        temporal = (other.temporal.pointwise_in, other.temporal.depthwise, other.temporal.pointwise_out)
        for number, (conv, our_conv) in enumerate(zip(own.conv, temporal, strict=True)):
            pair_affine(f"blocks.{index}.conv.{number}", conv, our_conv)
        assert other.temporal_norm is not None
        norms = (
            (own.conv_norm, other.temporal_norm),
            (own.attention_norm, other.attention_norm),
            (own.mlp_norm, other.mlp_norm),
        )
        for number, (norm, our_norm) in enumerate(norms):
            pair_affine(f"blocks.{index}.norm.{number}", norm, our_norm)
        width = own.attention.out.in_features
        for number, part in enumerate((own.attention.query, own.attention.key, own.attention.value)):
            rows = slice(number * width, (number + 1) * width)
            for kind in ("weight", "bias"):
                pair(f"blocks.{index}.attention.{number}.{kind}", part.get_parameter(kind),
                     other.attention.qkv.get_parameter(kind), rows)  # fmt: skip
        pair_affine(f"blocks.{index}.attention.out", own.attention.out, other.attention.out)
        pair_affine(f"blocks.{index}.mlp.0", own.mlp[0], other.mlp.fc1)
        pair_affine(f"blocks.{index}.mlp.2", own.mlp[2], other.mlp.fc2)
    return found


@torch.no_grad()
def copy_weights(released: ReleasedLayout, ours: VideoClassifier) -> None:
    """Give the released layout our weights."""
    for pair in pairs(released, ours):
        pair.released.copy_(pair.part(pair.ours))
