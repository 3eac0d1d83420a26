"""Side4Video beside other ways from image models to video models: memory, arithmetic and time of a training step.

    python benchmarks/peers.py                    everything that needs no graphics card, with tables and plot
    python benchmarks/peers.py --missing          only what the result file lacks
    python benchmarks/peers.py --size ViT-B/16 --frames 8 --method lora
    python benchmarks/peers.py --gpu              measure on the graphics card that is there, in under ten minutes
    python benchmarks/peers.py --docs             tables and plot again, from the result file

Random weights, no download. Simulated rows run each training step on tensors without numbers; a few are measured on
the CPU. Writes `benchmarks/results/peers.json`, `docs/benchmarks.md` (between its markers) and `docs/images/peers.png`.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import shlex
import sys
import time
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch

from peers.catalog import (
    FRAMES,
    OFFLOADED,
    ONE_CLIP,
    SIZES,
    UNFUSED,
    Entry,
    Size,
    cells,
    entries,
    frozen_trunk,
)
from peers.measure import materialise, measure
from peers.plot import draw
from peers.report import write_docs
from peers.results import Results, Row, key
from peers.simulate import frozen_flops, simulate, simulate_deep
from side4video.memory.estimate import estimate_step
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "peers.png"
CLASSES = 174
IMAGE_SIZE = (224, 224)
LIBRARIES = ("timm", "peft", "open_clip_torch")
# the measured row of the CPU: small enough for two cores and a minute
CPU_SIZE, CPU_BATCH, CPU_FRAMES, CPU_IMAGE, CPU_STEPS = "ViT-B/16", 2, 4, (112, 112), 3
GPU_SECONDS, GPU_STEPS, GPU_FRAMES = 540.0, 4, 8


def main() -> None:
    """Measure what is asked for and write it."""
    options = _options()
    results = Results(RESULT)
    run = this_run()
    if not options.docs:
        if options.gpu:
            if not torch.cuda.is_available():
                sys.exit("peers.py --gpu: no CUDA device is there; without --gpu it needs none")
            measure_all(results, run, torch.device("cuda"), options)
        else:
            if not options.cpu:
                simulate_all(results, run, options)
            if options.cpu or not (options.size or options.frames or options.method or options.missing):
                measure_cpu(results, run)
    write_docs(results, PAGE)
    draw(results, PICTURE)
    note(f"{PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)} say what {RESULT.relative_to(ROOT)} holds")


def simulate_all(results: Results, run: dict[str, Any], options: argparse.Namespace) -> None:
    """Every cell that the options leave, on tensors without numbers."""
    wanted = [
        cell
        for cell in cells()
        if (not options.size or cell[0].label.lower() == options.size.lower())
        and (not options.batch_size or cell[1] == options.batch_size)
        and (not options.frames or cell[2] == options.frames)
        and _named(cell[3], options)
        and not (options.missing and key(_head(*cell)) in results.rows["simulated"])
    ]
    begin = time.perf_counter()
    for number, cell in enumerate(wanted, 1):
        row = simulate_cell(*cell)
        results.add("simulated", [row], run)
        peak, flops = row["peak_bytes"] / 2**30, row["flops_step"] / row["frozen_flops"]
        note(
            f"[{number}/{len(wanted)}, {time.perf_counter() - begin:.0f} s] {row['size']} batch {row['batch_size']} "
            f"x {row['num_frames']} frames, {row['method']}, {row['way']}: {peak:.2f} GiB, {flops:.2f} x frozen forward"
        )


def simulate_cell(
    size: Size, batch_size: int, num_frames: int, entry: Entry, *, image_size: tuple[int, int] = IMAGE_SIZE
) -> Row:
    """One row."""
    shape: dict[str, Any] = {"num_frames": num_frames, "image_size": image_size}
    one_by_one, blocks = entry.way == ONE_CLIP, None
    # clip by clip: from the second clip on there are gradients to add to
    batch = (
        {"batch_size": 1, "parts": 2} if one_by_one else {"batch_size": batch_size, "offload": entry.way == OFFLOADED}
    )
    if entry.memory is not None:
        found: Any = estimate_step(_build(size, entry), batch_size=batch_size, **shape)  # pyright: ignore[reportArgumentType]
    elif size.depth is not None:
        found, blocks = simulate_deep(partial(_build, size, entry), size.depth, **batch, **shape)
    else:
        found = simulate(_build(size, entry), **batch, **shape)
    times = batch_size if one_by_one else 1
    return {
        **_head(size, batch_size, num_frames, entry),
        "peak_bytes": found.peak_bytes,
        "saved_bytes": found.saved_bytes,
        "host_bytes": found.host_bytes,
        "flops_forward": times * found.flops_forward,
        "flops_step": times * found.flops_step,
        "frozen_flops": _frozen_flops(size, batch_size * num_frames, image_size),
        "trainable_parameters": found.trainable_parameters,
        "by_cause": {cause: value for cause, value in found.by_cause.items() if value},
        "blocks": blocks,
    }


def _build(size: Size, entry: Entry, depth: int | None = None) -> torch.nn.Module:
    """The model on the meta device, its image model with so many blocks if given."""
    with torch.device("meta"):
        if depth is None:
            return entry.build(size.backbone, "bf16", CLASSES)
        name = size.backbone.removeprefix("timm:")
        return entry.build(timm.create_model(name, depth=depth, num_classes=0), "bf16", CLASSES)


@cache
def _frozen_flops(size: Size, num_images: int, image_size: tuple[int, int]) -> int:
    with torch.device("meta"):
        trunk = frozen_trunk(size.backbone)
    return frozen_flops(trunk, num_images=num_images, image_size=image_size)


def measure_cpu(results: Results, run: dict[str, Any]) -> None:
    """Seconds of a step of every method on this CPU, in float32, at a small size."""
    size = next(size for size in SIZES if size.label == CPU_SIZE)
    chosen = [e for e in entries(size) if e.way not in (ONE_CLIP, UNFUSED, OFFLOADED)]
    rows: list[Row] = []
    for number, entry in enumerate(chosen, 1):
        with torch.device("meta"):
            name = size.backbone.removeprefix("timm:")
            model = entry.build(timm.create_model(name, img_size=CPU_IMAGE, num_classes=0), "fp32", CLASSES)
        rows.append(measure_cell(model, size, CPU_BATCH, CPU_FRAMES, entry, torch.device("cpu"), CPU_IMAGE, CPU_STEPS))
        note(f"[{number}/{len(chosen)}] {entry.method}, {entry.way}: {rows[-1]['seconds']:.2f} s a step")
    results.rows["cpu"] = {}
    results.add("cpu", rows, run)


def measure_all(results: Results, run: dict[str, Any], device: torch.device, options: argparse.Namespace) -> None:
    """Every method at every size on a card, as long as the time lasts; what does not fit is a row without numbers."""
    begin = time.perf_counter()
    for size in SIZES:
        for entry in entries(size):
            if options.size and size.label.lower() != options.size.lower():
                continue
            if not _named(entry, options):
                continue
            if time.perf_counter() - begin > options.seconds:
                note(f"{options.seconds:.0f} s are over: {size.label}, {entry.method}, {entry.way} was not measured")
                continue
            batch_size, precision = size.batch_sizes[-1], "bf16" if device.type == "cuda" else "fp32"
            try:
                with torch.device("meta"):
                    model = entry.build(size.backbone, precision, CLASSES)
                row = measure_cell(model, size, batch_size, GPU_FRAMES, entry, device, IMAGE_SIZE, GPU_STEPS)
            except torch.OutOfMemoryError:
                row = {**_head(size, batch_size, GPU_FRAMES, entry), "peak_bytes": None, "seconds": None}
            results.add("gpu", [row], run)
            _note_measured(row, results)
            model = None
            gc.collect()
            torch.cuda.empty_cache()


def measure_cell(
    model: torch.nn.Module,
    size: Size,
    batch_size: int,
    num_frames: int,
    entry: Entry,
    device: torch.device,
    image_size: tuple[int, int],
    steps: int,
) -> Row:
    """One measured row."""
    parts = batch_size if entry.way == ONE_CLIP else 1
    found = measure(
        materialise(model, device),
        batch_size=batch_size,
        num_frames=num_frames,
        image_size=image_size,
        parts=parts,
        offload=entry.way == OFFLOADED,
        steps=steps,
    )
    return {
        **_head(size, batch_size, num_frames, entry),
        "image_size": list(image_size),
        "peak_bytes": found.peak_bytes,
        "seconds": round(found.median, 5),
        "seconds_min": round(min(found.seconds), 5),
        "seconds_max": round(max(found.seconds), 5),
        "clips_per_second": round(batch_size / found.median, 4),
    }


def _named(entry: Entry, options: argparse.Namespace) -> bool:
    return not options.method or any(part.lower() in entry.method.lower() for part in options.method)


def this_run() -> dict[str, Any]:
    """What a row says about where it comes from."""
    return {
        "command": shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "commit": source_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "side4video": __version__,
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "hardware": hardware(),
    }


def note(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def _note_measured(row: Row, results: Results) -> None:
    if row["seconds"] is None:
        note(f"{row['size']}, {row['method']}, {row['way']}: does not fit")
        return
    simulated = results.rows["simulated"].get(key(row))
    share = f", simulated {simulated['peak_bytes'] / 2**30:.2f}" if simulated else ""
    note(
        f"{row['size']}, {row['method']}, {row['way']}: {row['peak_bytes'] / 2**30:.2f} GiB{share}, "
        f"{row['clips_per_second']:.2f} clips/s"
    )


def _head(size: Size, batch_size: int, num_frames: int, entry: Entry) -> Row:
    return {
        "size": size.label, "batch_size": batch_size, "num_frames": num_frames, "method": entry.method,
        "way": entry.way,
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[size.label for size in SIZES], help="only this image model")
    parser.add_argument("--batch-size", type=int, help="only this batch size")
    parser.add_argument("--frames", type=int, choices=FRAMES, help="only this number of frames")
    parser.add_argument(
        "--method", action="append", default=[], help="only methods with this text in their name; again for more"
    )
    parser.add_argument("--missing", action="store_true", help="only rows that the result file lacks")
    parser.add_argument("--cpu", action="store_true", help="only the row measured on the CPU")
    parser.add_argument("--gpu", action="store_true", help="only measurements on the graphics card")
    parser.add_argument("--seconds", type=float, default=GPU_SECONDS, help="time that --gpu may take")
    parser.add_argument("--docs", action="store_true", help="only tables and plot, from the result file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
