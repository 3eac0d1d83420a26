"""Training steps a second on this machine's CPU: with clips made beforehand, and with clips decoded as they are needed.

    python benchmarks/train_step.py [--quick]

Random weights, drawn clips, no download. Writes `benchmarks/results/train_step.json`: the command, commit and hardware,
and for each model the median and the spread of the seconds of one step (forward, backward, optimiser).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from side4video.batch import VideoBatch
from side4video.build import build_backbone, build_loaders, build_model
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.loaders import ClipLoader
from side4video.data.manifest import read_manifest
from side4video.data.motion_files import write_motion_clips
from side4video.training.optim import make_optimizer, parameter_groups, set_rate
from side4video.training.provenance import hardware, source_commit
from side4video.training.step import TrainStep
from side4video.version import __version__

RESULT = Path(__file__).parent / "results" / "train_step.json"
MODELS: dict[str, dict[str, Any]] = {
    "tiny-clip, side 128, 8 frames, batch 16": {
        "backbone.name": "tiny-clip", "side.width": 128, "data.batch_size": 16
    },
    "ViT-B/16 at 224 px, side 320, 8 frames, batch 1": {
        "backbone.name": "open_clip:ViT-B-16", "side.width": 320, "data.batch_size": 1
    },
}  # fmt: skip
STEPS, WARM_UP = 5, 1


def batches(loader: ClipLoader) -> Iterator[VideoBatch]:
    """Training batches without end."""
    epoch = 0
    while True:
        loader.seek(epoch)
        yield from loader
        epoch += 1


def measure(settings: RunSettings, clips: Path, *, steps: int, warm_up: int) -> dict[str, Any]:
    """Seconds of each step with one batch over and over, and with batches from video files."""
    train, val = read_manifest(clips / "train"), read_manifest(clips / "val")
    backbone = build_backbone(settings)
    model = build_model(settings, train.class_names, backbone=backbone).train()
    loader, _ = build_loaders(settings, backbone.preprocessing, train, val)
    groups = parameter_groups(model, settings.optim)
    optimizer = make_optimizer(groups, settings.optim, fused=True)
    set_rate(optimizer, 1e-4)
    step = TrainStep(model, smoothing=settings.optim.label_smoothing)

    def one_step(batch: VideoBatch) -> None:
        loss, _ = step(batch.clip_BTCHW, batch.labels_B, None, 1.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    stream = batches(loader)
    first = next(stream)
    found: dict[str, Any] = {"memory": settings.memory, "backbone_precision": str(backbone.precision)}
    for name, source in (("clips in memory", iter(lambda: first, None)), ("clips decoded", stream)):
        seconds: list[float] = []
        for number in range(warm_up + steps):
            begin = time.perf_counter()
            one_step(next(source))
            if number >= warm_up:
                seconds.append(time.perf_counter() - begin)
        median = statistics.median(seconds)
        found[name] = {
            "steps": steps,
            "seconds_median": round(median, 4),
            "seconds_min": round(min(seconds), 4),
            "seconds_max": round(max(seconds), 4),
            "steps_per_second": round(1 / median, 3),
            "clips_per_second": round(settings.data.batch_size / median, 2),
        }
    found["workers"] = loader.num_workers
    loader.close()
    return found


def main() -> None:
    """Measure every model and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps: to see that it runs")
    quick = parser.parse_args().quick
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder)
        write_motion_clips(clips, seed=0, train_per_class=4, val_per_class=1)
        for name, overrides in MODELS.items():
            for memory in ("balanced", "fast"):
                settings = load_settings(None, {"backbone.pretrained": False, "memory": memory, **overrides})
                steps = 1 if quick else STEPS
                results[f"{name}, memory {memory}"] = measure(settings, clips, steps=steps, warm_up=WARM_UP)
                print(json.dumps({f"{name}, memory {memory}": results[f"{name}, memory {memory}"]}), file=sys.stderr)
    report = {
        "command": "python benchmarks/train_step.py" + (" --quick" if quick else ""),
        "side4video": __version__,
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "load_average": Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else None,
        "results": results,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
