"""EVA02-CLIP-E/14 and its larger sibling, as shapes: what they have is what their architecture says, both towers."""

from __future__ import annotations

import pytest
import torch

from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

D, HIDDEN, DEPTH, PATCH, GRID, E = 1792, 15360, 64, 14, 16, 1024
# width, layers
TEXT = {"EVA02-E-14": (1024, 24), "EVA02-E-14-plus": (1280, 32)}


def tower_size() -> int:
    """Fused qkv with biases on queries and values, post-norm, an MLP; class token, positions, last norm, projection."""
    block = 3 * D * D + 2 * D + D * D + D + 2 * D * HIDDEN + HIDDEN + D + 4 * D
    return DEPTH * block + 3 * PATCH * PATCH * D + D + D + (GRID * GRID + 1) * D + 2 * D + D * E + E


def text_size(width: int, layers: int) -> int:
    block = 4 * width * width + 4 * width + 8 * width * width + 5 * width + 4 * width
    return layers * block + 49408 * width + 77 * width + 2 * width + width * E


@pytest.mark.parametrize("name", TEXT)
def test_both_towers_and_what_trains_beside_them(name: str) -> None:
    with torch.device("meta"):
        backbone = create_backbone(f"open_clip:{name}", device="meta")
        text = create_text_tower(f"open_clip:{name}", pretrained=False)
        classifier = VideoClassifier(backbone, 174, memory="smallest")
        retrieval = VideoTextModel(backbone, text, memory="smallest")
    assert sum(p.numel() for p in backbone.parameters()) == tower_size()
    assert tower_size() == pytest.approx(4.35e9, rel=0.005)
    assert sum(p.numel() for p in text.parameters()) == text_size(*TEXT[name])
    assert (backbone.depth, backbone.width, backbone.post_norm, text.embed_dim) == (DEPTH, D, True, E)
    assert classifier.side.taps == retrieval.side.taps == tuple(range(1, DEPTH, 2))
    assert backbone.precision == torch.bfloat16
