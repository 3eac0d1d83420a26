"""Stored frozen tokens as the layers that a backbone would have streamed."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from side4video.backbones.trunk import LayerTokens
from side4video.batch import StoredTokens


def stream_stored(
    stored: StoredTokens, wanted: Collection[int], *, device: torch.device | str | None = None
) -> Iterator[LayerTokens]:
    """The wanted layers in order of depth, each brought to `device` and to its precision when its turn comes.

    Raises:
        ValueError: a layer that is not stored.
    """
    missing = sorted(set(wanted) - set(stored.layers))
    if missing:
        raise ValueError(f"stored tokens: blocks {missing} are missing; there are {list(stored.layers)}")
    for place, layer in enumerate(stored.layers):
        if layer in wanted:
            tokens_BTAD = stored.tokens[place].to(device, non_blocking=True)
            if stored.scales:
                tokens_BTAD = dequantise(tokens_BTAD, stored.scales[place].to(device, non_blocking=True))
            only_class = tokens_BTAD.shape[2] == 1 and stored.has_class_token
            yield LayerTokens(
                layer=layer,
                tokens_BTAD=tokens_BTAD.to(stored.precision),
                num_prefix=1 if only_class else stored.num_prefix,
                has_class_token=stored.has_class_token,
                grid_YX=stored.grid_YX,
            )


def quantise(tokens_BTAD: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens as int8 with one float32 scale each (last axis 1): the largest channel of a token becomes 127."""
    tokens_BTAD = tokens_BTAD.float()
    scale_BTA1 = tokens_BTAD.abs().amax(-1, keepdim=True) / 127
    # a token of zeros has no scale; any will do
    divisor_BTA1 = torch.where(scale_BTA1 == 0, torch.ones_like(scale_BTA1), scale_BTA1)
    return (tokens_BTAD / divisor_BTA1).round().to(torch.int8), scale_BTA1


def dequantise(int8_BTAD: Tensor, scale_BTA1: Tensor) -> Tensor:
    """What `quantise` kept, in float32."""
    return int8_BTAD.float() * scale_BTA1
