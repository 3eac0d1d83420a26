"""One small text-video model for all tests of this folder."""

from __future__ import annotations

import pytest
import torch

from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import VideoTextModel


@pytest.fixture(scope="session")
def text_model() -> VideoTextModel:
    """Untrained, on tiny-clip without its weights; its side network counts. Not for changing."""
    generator = torch.Generator().manual_seed(1)
    model = VideoTextModel(
        create_backbone("tiny-clip", pretrained=False, precision="fp32"),
        create_text_tower("tiny-clip", pretrained=False),
        side=SideSpec(width=24),
        generator=generator,
    ).eval()
    with torch.no_grad():
        model.side_proj.normal_(std=0.2, generator=generator)
        assert model.wti is not None
        for parameter in model.wti.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model
