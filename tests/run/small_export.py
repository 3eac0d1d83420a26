"""A run whose export takes seconds: one frozen block, one side block, random weights."""

from __future__ import annotations

from pathlib import Path

from run.small_runs import CLASSES, TINY
from side4video.build import build_backbone, build_model, resolve_settings
from side4video.config.load import load_settings
from side4video.training.checkpoint import RunFolder

NUM_FRAMES = 4


def write_small_run(path: Path, *more: str) -> Path:
    """An untrained run of recognition on tiny-clip's first block; `more` settings as `key=value`."""
    words = [*TINY, "side.taps=[0]", f"data.num_frames={NUM_FRAMES}", "train.accelerator=cpu", "optim.epochs=1", *more]
    settings = load_settings(None, words)
    backbone = build_backbone(settings)
    model = build_model(settings, CLASSES, backbone=backbone)
    folder = RunFolder(path)
    folder.begin(resolve_settings(settings, backbone), backbone, CLASSES)
    folder.save_weights(model.trainable_state())
    return path
