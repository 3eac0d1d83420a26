"""The memory ladder: simulated peak of a training step for every model and mode, beside its target.

    python benchmarks/memory_ladder.py [--only ROW,ROW]

Tensors without numbers, so no weights, no download and no graphics card. Writes `benchmarks/results/memory_ladder.json`
(with `--only`, the other rows stay as they were) and the table in `docs/memory.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from side4video.backbones.create import create_backbone
from side4video.backbones.quantised import Quantisation
from side4video.memory.estimate import StepEstimate, estimate_step
from side4video.side.network import MemoryMode
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "memory_ladder.json"
PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- memory_ladder begin -->", "<!-- memory_ladder end -->"
GIB = 2**30
CLASSES, NUM_FRAMES = 174, 8
ALLOWED = 1.05
"""A peak may be so many times its target."""


@dataclass(frozen=True)
class Column:
    """One way to train."""

    title: str
    memory: MemoryMode
    quantise: Quantisation = "none"
    stream_weights: bool = False


COLUMNS = {
    "fast": Column("`fast`", "fast"),
    "balanced": Column("`balanced`", "balanced"),
    "int8": Column("`balanced`, int8 frozen weights", "balanced", quantise="int8"),
    "lean": Column("`lean`", "lean"),
    "smallest": Column("`smallest`", "smallest", stream_weights=True),
    "smallest, weights on the card": Column("`smallest`, weights on the card", "smallest"),
}


@dataclass(frozen=True)
class Row:
    """One model at one batch size, and the targets in GiB of its columns."""

    title: str
    backbone: str
    batch_size: int
    side: SideSpec
    targets: dict[str, float]


B16, L14, E14 = "open_clip:ViT-B-16", "open_clip:ViT-L-14", "open_clip:EVA02-E-14"
_EVA = SideSpec.for_dialect("eva")
ROWS = {
    "b16": Row(
        "ViT-B/16, side 320, batch 32", B16, 32, SideSpec(width=320),
        {"fast": 9.6, "balanced": 2.5, "int8": 2.4, "lean": 1.35, "smallest": 0.9},
    ),
    "b16-light": Row(
        "ViT-B/16 light, side 192 every second, batch 32", B16, 32, SideSpec(width=192, taps="every_second"),
        {"fast": 3.7, "balanced": 1.3, "lean": 0.8},
    ),
    "l14": Row(
        "ViT-L/14, side 512, batch 16", L14, 16, SideSpec(width=512),
        {"fast": 20.2, "balanced": 4.9, "int8": 4.6, "lean": 3.0, "smallest": 2.1},
    ),
    "l14-light": Row(
        "ViT-L/14 light, side 320 every second, batch 16", L14, 16, SideSpec(width=320, taps="every_second"),
        {"fast": 7.2, "balanced": 2.4, "lean": 1.5},
    ),
    "e14-16": Row(
        "ViT-E/14, side 576 every second, batch 16", E14, 16, _EVA,
        {"fast": 40.0, "balanced": 16.9, "int8": 12.9, "lean": 11.8, "smallest": 3.4},
    ),
    "e14-8": Row(
        "ViT-E/14, batch 8", E14, 8, _EVA,
        {"fast": 25.2, "balanced": 13.6, "int8": 9.5, "lean": 11.3, "smallest": 3.0},
    ),
    "e14-4": Row(
        "ViT-E/14, batch 4", E14, 4, _EVA,
        {"fast": 17.8, "balanced": 12.1, "int8": 8.0, "lean": 11.1, "smallest": 2.9},
    ),
}  # fmt: skip
# B/16 fits into 1 GiB without its weights leaving the card
ALSO = {"b16": ("smallest, weights on the card",)}


def simulate(row: Row, column: Column) -> StepEstimate:
    """A training step of one cell."""
    with torch.device("meta"):
        backbone = create_backbone(
            row.backbone,
            precision="bf16",
            quantise=column.quantise,
            stream_weights=column.stream_weights,
            device="meta",
        )
        model = VideoClassifier(backbone, CLASSES, side=row.side, memory=column.memory)
    return estimate_step(
        model, batch_size=row.batch_size, num_frames=NUM_FRAMES, image_size=backbone.preprocessing.image_size
    )


def measure(name: str) -> dict[str, Any]:
    """All cells of a row."""
    row = ROWS[name]
    cells: dict[str, Any] = {}
    plain = simulate(row, COLUMNS["fast"])
    for key in (*row.targets, *ALSO.get(name, ())):
        found = plain if key == "fast" else simulate(row, COLUMNS[key])
        target = row.targets.get(key)
        cells[key] = {
            "gib": round(found.peak_bytes / GIB, 3),
            "target_gib": target,
            "ratio": None if target is None else round(found.peak_bytes / GIB / target, 3),
            "extra_flops_percent": round(100 * (found.flops_step / plain.flops_step - 1), 2),
            "host_gib": round(found.host_bytes / GIB, 3),
            "by_cause_gib": {cause: round(value / GIB, 3) for cause, value in found.by_cause.items() if value},
        }
        print(json.dumps({name: {key: cells[key]}}), file=sys.stderr, flush=True)
    return {"title": row.title, "cells": cells, "commit": source_commit()}


def table(report: dict[str, Any]) -> str:
    """The rows as Markdown: peak, target in brackets, extra arithmetic."""
    keys = [key for key in COLUMNS if key in ("fast", "balanced", "int8", "lean", "smallest")]
    lines = [
        "| training step, 8 frames of 224 px, GiB (target) | " + " | ".join(COLUMNS[key].title for key in keys) + " |",
        "|---" * (len(keys) + 1) + "|",
    ]
    for name in ROWS:
        row = report["rows"][name]
        texts: list[str] = []
        for key in keys:
            cell = row["cells"].get(key)
            if cell is None:
                texts.append("")
                continue
            extra = f", +{cell['extra_flops_percent']:.1f} %" if cell["extra_flops_percent"] else ""
            texts.append(f"{cell['gib']:.2f} ({cell['target_gib']:g}){extra}")
        lines.append(f"| {row['title']} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def write_page(report: dict[str, Any]) -> None:
    """Put the table between its marks in the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(report)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Simulate the rows and write the result; exit code 1 when a cell is above its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows, by commas: {', '.join(ROWS)}")
    only = parser.parse_args().only.split(",")
    rows: dict[str, Any] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    rows |= {name: measure(name) for name in only}
    report = {
        "command": "python benchmarks/memory_ladder.py",
        "side4video": __version__,
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "rows": {name: rows[name] for name in ROWS if name in rows},
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    if report["rows"].keys() == ROWS.keys():
        write_page(report)
    above = [
        f"{name}/{key}"
        for name, row in report["rows"].items()
        for key, cell in row["cells"].items()
        if cell["ratio"] is not None and cell["ratio"] > ALLOWED
    ]
    if above:
        sys.exit(f"above the target: {', '.join(above)}")


if __name__ == "__main__":
    main()
