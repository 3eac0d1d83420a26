"""The arithmetic of a model's clip, counted on shapes without numbers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from side4video.backbones.trunk import LayerTokens
from side4video.memory.track import StorageTracker
from side4video.side.norms import simulated_gpu
from side4video.streaming.scorers import Scorer

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class ClipCost:
    """FLOPs of one clip, a multiply-add as two: of the frozen model up to the last block that is looked at (None where
    its weights are quantised or streamed, and are not counted), and of the side network."""

    frozen_flops: int | None
    side_flops: int


def clip_cost(scorer: Scorer) -> ClipCost:
    """Count a clip of the scorer's number of frames; nothing is computed."""
    backbone, side = scorer.backbone, shapes_of(scorer.side)
    image_size, num_frames = backbone.preprocessing.image_size, scorer.num_frames
    clip_BTCHW = torch.empty(1, num_frames, 3, *image_size, device="meta")
    rows, columns = backbone.grid(image_size)
    tokens_BTAD = torch.empty(1, num_frames, backbone.num_prefix + rows * columns, backbone.width, device="meta")
    layers = [
        LayerTokens(tap, tokens_BTAD, backbone.num_prefix, backbone.has_class_token, (rows, columns))
        for tap in scorer.side.taps
    ]
    frozen: int | None = None
    with torch.no_grad(), simulated_gpu():
        if backbone.quantise == "none" and not backbone.stream_weights:
            last = backbone.depth - 1 if scorer.needs_last else max(scorer.side.taps)
            with StorageTracker() as tracker:
                for _ in shapes_of(backbone).stream(clip_BTCHW, [last]):
                    pass
            frozen = sum(operation.flops * operation.count for operation in tracker.operations)
        with StorageTracker() as tracker:
            side(clip_BTCHW, layers)
    return ClipCost(frozen, sum(operation.flops * operation.count for operation in tracker.operations))


def shapes_of(module: Module) -> Module:
    """A copy without numbers; no weight is copied on the way."""
    memo = {id(tensor): _shape_of(tensor) for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
