"""Training steps on this machine's CPU: the released code's layout, ours, and ours from a feature cache.

    python benchmarks/train_step.py [--quick]
    python benchmarks/train_step.py --docs        the tables again, from the result file

ViT-B/16 at 224 px, 8 frames, random weights, drawn clips, no download. All ways make the same optimiser step (forward,
backward, AdamW) on one clip; they take turns within a round, so that a machine that slows down slows all of them down.
The released layout is `released_layout.py`: the same mathematics, everything kept, in float32 and, beside it, under
bf16 autocast. Ours runs the frozen model as `backbone.precision=auto` says, and the side network in float32 (the
default on CPUs) or bf16 (`train.precision=bf16`). Cached steps read their clips from a real cache on the disk.

Every memory mode takes part, so what a mode costs in time stands beside what it costs in arithmetic.

Writes `benchmarks/results/train_step.json` and the tables of `docs/benchmarks.md`: command, commit, hardware; for each
way the median and spread of seconds, of CPU seconds (which other processes on the machine do not count into), its
arithmetic, and how many times faster it is than the released layout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from peers.report import put_between
from released_layout import ReleasedLayout, copy_weights
from side4video.batch import VideoBatch
from side4video.build import build_backbone, build_loaders, build_model
from side4video.build_cache import cached_loaders
from side4video.config.load import load_settings
from side4video.data.manifest import read_manifest
from side4video.data.motion_files import write_motion_clips
from side4video.data.records import Manifest
from side4video.memory.track import StorageTracker
from side4video.side.norms import simulated_gpu
from side4video.tasks.recognition import VideoClassifier
from side4video.training.optim import make_optimizer, parameter_groups, set_rate
from side4video.training.provenance import hardware, source_commit
from side4video.training.runtime import start
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "train_step.json"
PAGE = ROOT / "docs" / "benchmarks.md"
MARKER = "train_step"
MODES = ("fast", "balanced", "lean", "smallest")
RELEASED = "released layout, fp32"
PLAIN = "ours, memory=fast, side fp32"
MODELS: dict[str, dict[str, Any]] = {
    "side 320 after every block": {"side.width": 320},
    "light: side 192 after every second block": {"side.width": 192, "side.taps": "every_second"},
}
ROUNDS, CLIPS = 3, 3
Step = Callable[[], None]


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOPs a second of a large matrix product on this machine, the best of a few."""
    left, right = torch.randn(1536, 1536, dtype=dtype), torch.randn(1536, 1536, dtype=dtype)
    seconds: list[float] = []
    for _ in range(6):
        begin = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begin)
    return 2 * 1536**3 / min(seconds)


def make_ways(overrides: dict[str, Any], folder: Path) -> dict[str, Step]:
    """The steps to compare, by name; the released layout comes first."""
    base = {
        "backbone.name": "open_clip:ViT-B-16", "backbone.pretrained": False, "data.batch_size": 1, "data.workers": 0,
        "train.accelerator": "cpu", "train.devices": 1, "cache.dir": str(folder / f"cache {len(overrides)}"),
        **overrides,
    }  # fmt: skip
    settings = load_settings(None, base)
    train, val = read_manifest(folder / "train"), read_manifest(folder / "val")
    train = Manifest(train.records[:CLIPS], train.class_names)
    val = Manifest(val.records[:1], val.class_names)
    backbone = build_backbone(settings)
    loaders = build_loaders(settings, backbone.preprocessing, train, val)
    batch = next(iter(loaders[0]))
    models: dict[str, VideoClassifier] = {
        memory: build_model(settings.model_copy(update={"memory": memory}), train.class_names, backbone=backbone)
        for memory in MODES
    }
    runtime = start(settings.train)
    cached, _ = cached_loaders(settings, models["fast"], loaders, runtime=runtime)
    full = load_settings(None, {**base, "backbone.precision": "fp32"})
    released = ReleasedLayout(build_backbone(full), train.num_classes, models["fast"].side.spec)
    copy_weights(released, models["fast"])

    def from_disk() -> VideoBatch:
        nonlocal stream
        found = next(stream, None)
        if found is None:
            cached.seek(0)
            stream = iter(cached)
            found = next(stream)
        return found

    stream = iter(cached)

    def ours(memory: str, take: Callable[[], VideoBatch], precision: torch.dtype) -> Step:
        model = models[memory].train()
        optimizer = make_optimizer(parameter_groups(model, settings.optim), settings.optim, fused=True)
        set_rate(optimizer, 1e-4)
        return lambda: one_step(
            lambda batch: model(batch.clip_BTCHW, batch.stored), optimizer, take, autocast=precision
        )

    def theirs(precision: torch.dtype) -> Step:
        trained = [parameter for parameter in released.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.15, fused=True)
        released.train()
        return lambda: one_step(lambda batch: released(batch.clip_BTCHW), optimizer, lambda: batch, autocast=precision)

    full_type, half_type = torch.float32, torch.bfloat16
    return {
        RELEASED: theirs(full_type),
        "released layout, bf16 autocast": theirs(half_type),
        **{f"ours, memory={mode}, side fp32": ours(mode, lambda: batch, full_type) for mode in MODES},
        "ours, memory=fast, side bf16": ours("fast", lambda: batch, half_type),
        "ours from the cache, memory=fast, side fp32": ours("fast", from_disk, full_type),
        "ours from the cache, memory=fast, side bf16": ours("fast", from_disk, half_type),
    }


def one_step(
    forward: Callable[[VideoBatch], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    take: Callable[[], VideoBatch],
    *,
    autocast: torch.dtype,
) -> None:
    """Forward, backward, optimiser."""
    batch = take()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast is torch.bfloat16):
        logits_BK = forward(batch)
        loss = F.cross_entropy(logits_BK.float(), batch.labels_B, label_smoothing=0.1)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def measure(ways: dict[str, Step], rounds: int) -> dict[str, Any]:
    """Median seconds of each way over rounds in which each has its turn; the first round warms up and counts FLOPs."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    flops: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, step in ways.items():
            if not number:
                # torch's fused attention is one operation, in which no arithmetic can be seen
                with simulated_gpu(), StorageTracker() as tracker:
                    step()
                flops[name] = sum(operation.flops * operation.count for operation in tracker.operations)
                continue
            begin, begin_cpu = time.perf_counter(), time.process_time()
            step()
            wall[name].append(time.perf_counter() - begin)
            cpu[name].append(time.process_time() - begin_cpu)
    found: dict[str, Any] = {}
    first = next(iter(ways))
    for name in ways:
        found[name] = {
            "seconds_median": round(statistics.median(wall[name]), 4),
            "seconds_min": round(min(wall[name]), 4),
            "seconds_max": round(max(wall[name]), 4),
            "cpu_seconds_median": round(statistics.median(cpu[name]), 4),
            "gflops": round(flops[name] / 1e9, 1),
            "times_faster": round(statistics.median(wall[first]) / statistics.median(wall[name]), 2),
            "times_faster_cpu_seconds": round(statistics.median(cpu[first]) / statistics.median(cpu[name]), 2),
        }
    return found


def table(report: dict[str, Any]) -> str:
    """Both models' steps, as Markdown."""
    rates = report["matrix_gflops_a_second"]
    machine = f"{report['hardware']['cores']} cores of {report['hardware']['processor']}"
    lines = [
        f"{report['model']}; {machine}, where large matrix products run at {rates['float32']} GFLOP/s in float32 and "
        f"{rates['bfloat16']} in bf16. Medians of {report['rounds']} rounds in which the ways take turns. "
        f"Commit {report['commit'][:7]}, `{report['command']}`.",
    ]
    for model, rows in report["results"].items():
        plain = rows[PLAIN]
        lines += [
            "",
            f"{model}:",
            "",
            "| training step | seconds | times faster than released | arithmetic beside `fast` | time beside it |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, row in rows.items():
            beside = ["", ""]
            if name.startswith("ours, ") and name.endswith("fp32"):
                beside = [f"{row[key] / plain[key] - 1:+.1%}" for key in ("gflops", "seconds_median")]
            lines.append(f"| {name} | {row['seconds_median']:.2f} | {row['times_faster']:.2f} | {' | '.join(beside)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every model and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round: to see that it runs; writes nothing")
    parser.add_argument("--docs", action="store_true", help="only the tables, from the result file")
    options = parser.parse_args()
    quick: bool = options.quick
    if options.docs:
        put_between(PAGE, MARKER, table(json.loads(RESULT.read_text(encoding="utf-8"))))
        return
    results: dict[str, Any] = {}
    rates = {
        str(dtype).removeprefix("torch."): round(matrix_rate(dtype) / 1e9) for dtype in (torch.float32, torch.bfloat16)
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_motion_clips(folder, seed=0, train_per_class=1, val_per_class=1)
        for model, overrides in MODELS.items():
            results[model] = measure(make_ways(overrides, folder), 1 if quick else ROUNDS)
            print(json.dumps({model: results[model]}, indent=1), flush=True)
    report = {
        "command": "python benchmarks/train_step.py",
        "model": "ViT-B/16, 224 px, 8 frames, batch 1, random weights",
        "rounds": ROUNDS,
        "side4video": __version__,
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "matrix_gflops_a_second": rates,
        "load_average": Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else None,
        "results": results,
    }
    if not quick:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        put_between(PAGE, MARKER, table(report))


if __name__ == "__main__":
    main()
