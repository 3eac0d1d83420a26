"""How far our training steps are from the floor: the arithmetic that no implementation can leave out, at full speed.

    python benchmarks/floor.py [--gpu]

The floor of a step is one forward pass of the frozen blocks and three of the side network (forward, and twice that
backward), in FLOPs, over the rate of a large matrix product measured on the same device in the same precision. Random
weights, no download. Prints a table; writes `benchmarks/results/floor.json` and the page `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from peers.catalog import MODES, SIZES, Size, frozen_trunk
from peers.measure import materialise, measure
from peers.report import FLOOR, floor_table, put_between
from peers.side4video import ours
from peers.simulate import frozen_flops, simulate
from side4video.side.network import MemoryMode
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "floor.json"
PAGE = ROOT / "docs" / "benchmarks.md"
CLASSES = 174
IMAGE_SIZE = (224, 224)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """What a device can do in two minutes. `precisions` are of the frozen weights; `matrix`, the rows of a product."""

    sizes: tuple[Size, ...]
    modes: tuple[MemoryMode, ...]
    precisions: tuple[str, ...]
    batch_size: int | None
    num_frames: int
    image_size: tuple[int, int]
    matrix: int
    steps: int


# on a CPU nothing waits elsewhere: lean is balanced
CPU = Plan(SIZES[:1], ("fast", "balanced", "smallest"), ("fp32", "bf16"), 1, 4, IMAGE_SIZE, 2048, 2)
GPU = Plan(SIZES, MODES, ("bf16",), None, 8, IMAGE_SIZE, 8192, 4)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="on the graphics card instead of the CPU")
    on_gpu = parser.parse_args().gpu
    if on_gpu and not torch.cuda.is_available():
        sys.exit("floor.py --gpu: no CUDA device is there; without --gpu it needs none")
    found = {
        "command": shlex.join(["python", "benchmarks/floor.py", *sys.argv[1:]]),
        "commit": source_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "side4video": __version__,
        "torch": torch.__version__,
        "hardware": hardware(),
        **distances(GPU if on_gpu else CPU, torch.device("cuda" if on_gpu else "cpu")),
    }
    stored: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    stored["gpu" if on_gpu else "cpu"] = found
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    put_between(PAGE, FLOOR, floor_table(stored))
    print(floor_table({"now": found}))


def distances(plan: Plan, device: torch.device) -> dict[str, Any]:
    """The device's matrix rates, and a row for every configuration of the plan."""
    side = "bf16" if device.type == "cuda" else "fp32"
    rates = {name: matrix_rate(TYPES[name], plan.matrix, device) for name in {*plan.precisions, side}}
    rows: list[dict[str, Any]] = []
    for size in plan.sizes:
        for width, taps in filter(None, (size.full, size.light)):
            for precision in plan.precisions:
                for memory in plan.modes:
                    row = _row(plan, size, (width, taps), precision, memory, device)
                    floor = row["frozen_flops"] / rates[precision] + 3 * row["side_flops"] / rates[side]
                    rows.append(
                        {**row, "floor_seconds": round(floor, 5), "times_floor": float(f"{row['seconds'] / floor:.4g}")}
                    )
                    print(
                        f"{size.label}, side {width}, frozen {precision}, {memory}: {row['seconds']:.3f} s, "
                        f"{rows[-1]['times_floor']:.2f} x the floor",
                        file=sys.stderr,
                        flush=True,
                    )
    return {"side_precision": side, "matrix_rates": rates, "rows": rows}


def matrix_rate(dtype: torch.dtype, rows: int, device: torch.device, *, repeats: int = 5) -> float:
    """FLOPs a second of a square matrix product, the best of some."""
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(rows, rows, device=device, generator=generator).to(dtype) for _ in range(2))
    seconds: list[float] = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * rows**3 / min(seconds[1:])


def _row(
    plan: Plan, size: Size, side: tuple[int, str], precision: str, memory: MemoryMode, device: torch.device
) -> dict[str, Any]:
    batch_size = plan.batch_size or size.batch_sizes[-1]
    shape: dict[str, Any] = {"batch_size": batch_size, "num_frames": plan.num_frames, "image_size": plan.image_size}
    width, taps = side
    with torch.device("meta"):
        trunk = frozen_trunk(size.backbone)
        model, twin = (
            ours(size.backbone, CLASSES, width=width, taps=taps, memory=mode, precision=precision)
            for mode in (memory, MODES[0])
        )
    last = max(model.side.taps)
    frozen = frozen_flops(
        trunk, num_images=batch_size * plan.num_frames, image_size=plan.image_size, num_blocks=last + 1
    )
    forward = simulate(twin, **shape).flops_forward
    found = measure(materialise(model, device), steps=plan.steps, **shape)
    row = {
        "size": size.label, "width": width, "taps": taps, "precision": precision, "memory": memory, **shape,
        "frozen_flops": frozen, "side_flops": forward - frozen, "seconds": round(found.median, 5),
        "seconds_max": round(max(found.seconds), 5), "peak_bytes": found.peak_bytes,
    }  # fmt: skip
    del model
    gc.collect()
    return row


if __name__ == "__main__":
    main()
