"""One ONNX file for all tests of this folder: writing one takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from side4video.config.load import load_settings
from side4video.export.parts import Sizes
from side4video.export.record import make_record
from side4video.export.write import Exported, export_model
from side4video.tasks.recognition import VideoClassifier
from unit.export.small_models import NUM_FRAMES, make_classifier


@dataclass(frozen=True)
class Shared:
    """A model and its file, whose weights lie beside it."""

    model: VideoClassifier
    path: Path
    exported: Exported


@pytest.fixture(scope="session")
def frames_TCHW() -> Tensor:
    return torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, frames_TCHW: Tensor) -> Shared:
    """Any batch, any number of frames. Not for changing."""
    model = make_classifier("open_clip")
    path = tmp_path_factory.mktemp("exported") / "own.onnx"
    settings = load_settings(None, {"data.num_frames": NUM_FRAMES, "data.sampling": "uniform"})
    record = make_record(model, settings, weights_hash="0123")
    (exported,) = export_model(model, record, path, frames_TCHW, sizes=Sizes(), external_above=0)
    return Shared(model, path, exported)
