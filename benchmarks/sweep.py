"""What four side networks over one frozen pass cost, against one of them alone, on this machine's CPU.

    python benchmarks/sweep.py [--quick] [--only light]

ViT-B/16 at 224 px with random weights, 8 frames, batch 1, clips in memory: the size of `train_step.py`. Side networks:
the paper's light one (width 192 after every second block, 4.5 M parameters) and its full one (320 after every block,
21 M), as four learning rates. Each round times the frozen pass with one step, then with four, one after the other.
Writes `benchmarks/results/sweep.json`: medians of the rounds, their spread, the arithmetic of both, and the processor
time beside the clock's, which other processes on the machine do not touch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from side4video.backbones.base import FrozenBackbone
from side4video.batch import VideoBatch
from side4video.build import build_backbone, build_model, estimate_run
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.training.provenance import hardware, source_commit
from side4video.training.recognition_task import RecognitionTask
from side4video.training.runtime import Runtime, start
from side4video.training.sweep import SharedPass, SweepMember
from side4video.training.values import Place

RESULT = Path(__file__).parent / "results" / "sweep.json"
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
CLASSES = [str(number) for number in range(174)]
SIDES: dict[str, dict[str, Any]] = {
    "light, side 192 every second": {"side.width": 192, "side.taps": "every_second"},
    "full, side 320 every block": {"side.width": 320},
}
# of the side network and of the frozen weights; the full network in float32 takes minutes, and can only be further from
# the line
PRECISIONS = {
    "light, side 192 every second": (("bf16", "bf16"), ("fp32", "bf16"), ("fp32", "fp32")),
    "full, side 320 every block": (("bf16", "bf16"),),
}
ROUNDS = 3
PLACE = Place(0, 0, ends=True, in_step=1)


def members(settings: RunSettings, backbone: FrozenBackbone) -> list[SweepMember]:
    """One model for each rate."""
    changed = [load_settings(settings.model_dump(), {"optim.lr": rate}) for rate in RATES]
    return [SweepMember(str(s.optim.lr), s, build_model(s, CLASSES, backbone=backbone), Path()) for s in changed]


def measure(settings: RunSettings, backbone: FrozenBackbone, runtime: Runtime, rounds: int) -> dict[str, Any]:
    """Seconds of a step of one and of four, in turn."""
    every = members(settings, backbone)
    tasks = [RecognitionTask(m.settings, m.model, runtime, batches_per_epoch=100) for m in every]
    count = settings.data.batch_size
    batch = VideoBatch(
        torch.randn(count, settings.data.num_frames, 3, 224, 224, generator=torch.Generator().manual_seed(0)),
        *(torch.arange(count) for _ in range(3)),
    )
    shared = {1: SharedPass(every[:1], runtime), 4: SharedPass(every, runtime)}

    def step(number: int) -> None:
        ready = shared[number].train(batch, 0, 0)
        for task in tasks[:number]:
            task.model.train()
            task.backward(ready, float(count), PLACE)
            task.wrapped_optimizer.step()
            task.wrapped_optimizer.zero_grad()

    clock: dict[int, list[float]] = {1: [], 4: []}
    processor: dict[int, list[float]] = {1: [], 4: []}
    frozen: list[float] = []
    for turn in range(1 + rounds):
        for number in (1, 4):
            seconds, busy = timed(lambda number=number: step(number))
            if turn:
                clock[number].append(seconds)
                processor[number].append(busy)
        if turn:
            frozen.append(timed(lambda: shared[1].train(batch, 0, 0))[1])
    estimate = estimate_run(settings, len(CLASSES))(settings.memory, count)
    side = estimate.flops_step - estimate.flops_forward
    return {
        "memory": settings.memory,
        "precision": runtime.precision,
        "backbone_precision": str(backbone.precision),
        "rounds": rounds,
        **{f"seconds_{number}": spread(values) for number, values in clock.items()},
        **{f"processor_seconds_{number}": spread(values) for number, values in processor.items()},
        "processor_seconds_frozen_pass": spread(frozen),
        "ratio": round(statistics.median(clock[4]) / statistics.median(clock[1]), 3),
        "ratio_processor": round(statistics.median(processor[4]) / statistics.median(processor[1]), 3),
        "gflops_step_alone": round(estimate.flops_step / 1e9, 1),
        "gflops_side_backward": round(side / 1e9, 1),
    }


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of processors."""
    begin, busy = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - begin, time.process_time() - busy


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Measure both widths and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round: to see that it runs")
    parser.add_argument("--only", default="", help="cells whose name begins so, such as `light` or `full`")
    options = parser.parse_args()
    quick, results = options.quick, dict[str, Any]()
    for name, side in SIDES.items():
        for precision, frozen in PRECISIONS[name]:
            key = f"{name}, {precision}" if precision == frozen else f"{name}, {precision}, frozen {frozen}"
            if not key.startswith(options.only):
                continue
            settings = load_settings(
                None,
                {
                    "backbone.name": "open_clip:ViT-B-16", "backbone.pretrained": False, "data.batch_size": 1,
                    "backbone.precision": frozen, "memory": "fast", "train.precision": precision,
                    "train.accelerator": "cpu", **side,
                },
            )  # fmt: skip
            runtime = start(settings.train)
            results[key] = measure(settings, build_backbone(settings), runtime, 1 if quick else ROUNDS)
            print(json.dumps({key: results[key]}), file=sys.stderr)
            # each cell as it is done: a run that is cut short leaves what it has
            write(results)


def write(results: dict[str, Any]) -> None:
    """The result's file."""
    report = {
        "command": " ".join(["python benchmarks/sweep.py", *sys.argv[1:]]),
        "model": "open_clip:ViT-B-16, random weights, 8 frames of 224 px, batch 1, clips in memory",
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
