"""Small models on a toy backbone, and a drawn video, for tests of timelines and live streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from run.small_runs import draw_clip
from side4video.backbones.base import FrozenBackbone
from side4video.data.transforms import PixelFormat, TestTransform
from side4video.side.spec import SideSpec
from side4video.streaming.scorers import ClassScorer, MiddleCrop
from side4video.tasks.recognition import VideoClassifier
from unit.backbones.toy import ToyTrunk

PIXELS = PixelFormat((12, 14), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
TO_PIXELS = MiddleCrop(TestTransform(PIXELS))


@pytest.fixture
def backbone() -> FrozenBackbone:
    torch.manual_seed(0)
    return FrozenBackbone(ToyTrunk(), name="toy")


@pytest.fixture
def make_scorer(backbone: FrozenBackbone) -> Callable[..., ClassScorer]:
    """Classifiers that differ by their seed; their scores are far from even."""

    def make(
        *, seed: int = 5, num_frames: int = 8, num_classes: int = 3, taps: tuple[int, ...] = (0, 2)
    ) -> ClassScorer:
        names = tuple(f"class {number}" for number in range(num_classes))
        generator = torch.Generator().manual_seed(seed)
        side = SideSpec(width=10, num_heads=2, taps=taps)
        model = VideoClassifier(backbone, num_classes, side=side, class_names=names, generator=generator).eval()
        with torch.no_grad():
            model.head.weight.mul_(30)
        return ClassScorer(f"run {seed}", model, num_frames, TO_PIXELS)

    return make


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 frames at 10 a second."""
    return draw_clip(tmp_path_factory.mktemp("video") / "long.mp4", "slide-right", seed=3, num_frames=41)


def alone(scorer: ClassScorer, frames_TCHW: Tensor) -> Tensor:
    """`scores_K` of uint8 frames as one clip, the slow and obvious way."""
    with torch.no_grad():
        return scorer.model(scorer.transform(frames_TCHW).unsqueeze(0))[0].softmax(-1)
