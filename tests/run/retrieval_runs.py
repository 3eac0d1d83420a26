"""Run folders of untrained retrieval models: enough for whatever embeds, and made in a second."""

from __future__ import annotations

from pathlib import Path

import torch

from side4video.build import build_backbone, build_spec, resolve_settings
from side4video.build_retrieval import build_text_model
from side4video.config.load import load_settings
from side4video.training.checkpoint import RunFolder

NUM_FRAMES = 5


def write_retrieval_run(path: Path, *, seed: int = 0, interaction: str = "wti") -> Path:
    """A tiny run with random weights, whose side network counts: `side_proj` would be zero in a new model."""
    tiny = {"backbone.name": "tiny-clip", "backbone.pretrained": False, "backbone.precision": "fp32", "side.width": 24}
    more = {"data.num_frames": NUM_FRAMES, "train.accelerator": "cpu", "retrieval.interaction": interaction}
    settings = load_settings(None, {"task": "retrieval", **tiny, **more})
    backbone = build_backbone(settings)
    model = build_text_model(settings, backbone, build_spec(settings.side, backbone, retrieval=True))
    with torch.no_grad():
        model.side_proj.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    folder = RunFolder(path)
    folder.begin(resolve_settings(settings, backbone), backbone, None)
    folder.save_weights(model.trainable_state())
    return path
