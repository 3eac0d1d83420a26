"""Models with repeated random weights are the models that the library builds, in everything but the numbers."""

from __future__ import annotations

import pytest
import torch

from random_weights import random_backbone
from side4video.backbones.create import create_backbone


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_the_same_architecture(stream: bool) -> None:
    name = "open_clip:ViT-B-32/openai"
    backbone = random_backbone(name, stream_weights=stream)
    expected = create_backbone(name, device="meta")
    shapes = {key: (value.shape, value.dtype) for key, value in expected.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in backbone.state_dict().items()} == shapes
    assert not any(value.requires_grad or value.is_meta for value in backbone.parameters())
    (layer,) = backbone.stream(torch.randn(1, 2, 3, 224, 224), [11])
    assert bool(layer.tokens_BTAD.isfinite().all())
    assert float(layer.tokens_BTAD.float().std()) > 0.1
