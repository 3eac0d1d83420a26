"""Everything that needs a graphics card, in one call of under ten minutes: checks, peaks and step times.

    python benchmarks/gpu_all.py

Runs `tests/gpu`, then measures peak and seconds of a training step of each cell of the ladder that fits the card.
Writes `benchmarks/results/gpu_all.json` with command, commit and card. Without a card it fails.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from memory_ladder import COLUMNS, GIB, ROWS, Column, Row, simulate
from random_weights import random_backbone
from side4video.tasks.losses import classification_loss
from side4video.tasks.recognition import VideoClassifier
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu_all.json"
STEPS, WARM_UP = 5, 2
SECONDS, CHECK_SECONDS = 540, 300


def measure(row: Row, column: Column) -> dict[str, Any]:
    """Peak and seconds of a step."""
    backbone = random_backbone(
        row.backbone, quantise=column.quantise, stream_weights=column.stream_weights, device="cuda"
    )
    model = VideoClassifier(backbone, 174, side=row.side, memory=column.memory).cuda().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    clip_BTCHW = torch.randn(row.batch_size, 8, 3, *backbone.preprocessing.image_size, device="cuda")
    labels_B = torch.zeros(row.batch_size, dtype=torch.int64, device="cuda")
    seconds: list[float] = []
    for number in range(WARM_UP + STEPS):
        torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = classification_loss(model(clip_BTCHW), labels_B, smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    return {
        "gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
        "seconds_median": round(median, 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "clips_per_second": round(row.batch_size / median, 2),
    }


def checks_pass() -> bool:
    """Whether `tests/gpu` passes; in more than its time, it does not, and there is still time to measure."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q"]
    try:
        return subprocess.run(command, cwd=ROOT, check=False, timeout=CHECK_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"tests/gpu took more than {CHECK_SECONDS} s", file=sys.stderr)
        return False


def main() -> None:
    """Check, measure, write; exit code 1 when a check failed or there is no card."""
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to measure")
    begin = time.monotonic()
    passed = checks_pass()
    room = torch.cuda.get_device_properties(0).total_memory - GIB
    cells: dict[str, Any] = {}
    for name, row in ROWS.items():
        for key in row.targets:
            if time.monotonic() - begin > SECONDS:
                cells[f"{name}/{key}"] = {"left_out": "no time left"}
                continue
            predicted = simulate(row, COLUMNS[key]).peak_bytes
            if predicted > room:
                cells[f"{name}/{key}"] = {"left_out": "does not fit this card"}
                continue
            found = measure(row, COLUMNS[key])
            fast = cells.get(f"{name}/fast", {}).get("seconds_median")
            found["predicted_gib"] = round(predicted / GIB, 3)
            found["time_ratio_to_fast"] = round(found["seconds_median"] / fast, 3) if fast else None
            cells[f"{name}/{key}"] = found
            print(json.dumps({f"{name}/{key}": found}), file=sys.stderr, flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    report = {
        "command": "python benchmarks/gpu_all.py",
        "side4video": __version__,
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "card": torch.cuda.get_device_name(0),
        "checks_passed": passed,
        "cells": cells,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
