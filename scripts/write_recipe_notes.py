"""Writes what each shipped recipe says about itself: the comment on top of it, `results.json`, the table in the docs.

    python scripts/write_recipe_notes.py            estimate everything and write (about five minutes on one core)
    python scripts/write_recipe_notes.py --stored   write again, with the estimates of the last time
    python scripts/write_recipe_notes.py --check    write nothing; say which files differ from the stored numbers

The paper's numbers are below. Ours are `side4video plan`'s: a training step on tensors without numbers. Settings in a
recipe are written by hand; everything above its first line that is no comment is written here.

Source: Side4Video, arXiv:2311.15769, the tables of results; the light models' settings are not published, those that
fit their parameters, arithmetic and memory best are used.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side4video.config.load import RECIPE_FOLDER, load_settings, shipped_recipes
from side4video.config.schema import RunSettings
from side4video.data.catalog import KnownDataset, known_dataset

RESULTS = RECIPE_FOLDER / "results.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
TABLE_START, TABLE_END = "<!-- table: scripts/write_recipe_notes.py -->", "<!-- end of table -->"
CARD = "a100-80gb"
MODES = ("balanced", "fast")
GPUS = 8


@dataclass(frozen=True)
class Published:
    """A row of the paper. `top1` is of all views; `three_views` of three crops of one clip; memory is of one GPU;
    `about` is a top-1 that is read off a figure."""

    top1: float | None = None
    three_views: float | None = None
    memory_gb: float | None = None
    memory_batch: int | None = None
    about: float | None = None


PAPER = {
    "ssv1-b16": Published(59.4),
    "ssv1-b16-16f": Published(60.7),
    "ssv1-l14": Published(61.0),
    "ssv1-l14-16f": Published(62.4),
    "ssv1-e14": Published(65.3),
    "ssv1-e14-16f": Published(67.3),
    "ssv2-b16": Published(70.6, 70.2, 18.8, 32),
    "ssv2-b16-16f": Published(71.5),
    "ssv2-b16-light": Published(None, 68.6, 8.9, 32),
    "ssv2-b16-5pct": Published(about=48),
    "ssv2-b16-10pct": Published(about=55),
    "ssv2-b16-20pct": Published(about=63),
    "ssv2-b16-50pct": Published(about=68),
    "ssv2-l14": Published(71.9, 71.8, 37.0, 16),
    "ssv2-l14-16f": Published(73.2),
    "ssv2-l14-light": Published(None, 70.6, 15.3, 16),
    "ssv2-e14": Published(74.3, None, 38.0, None),
    "ssv2-e14-16f": Published(75.2),
    "k400-b16": Published(83.6),
    "k400-e14-16f": Published(88.6),
}
MODELS = {"b32": "CLIP ViT-B/32", "b16": "CLIP ViT-B/16", "l14": "CLIP ViT-L/14", "e14": "EVA02-CLIP ViT-E/14"}
TAPS = {"all": "after every block", "every_second": "after every second block"}


def published(name: str) -> dict[str, Any]:
    """The paper's row of a recipe, as it is stored; empty when the paper has none."""
    row = PAPER.get(name)
    if row is None:
        return {}
    crops, clips = _test_views(name)
    frames = load_settings(name).data.num_frames
    values = {
        "top1": row.top1,
        "views": None if row.top1 is None else f"{frames}x{crops}x{clips}",
        "top1_three_views": row.three_views,
        "memory_gb": row.memory_gb,
        "memory_batch": row.memory_batch,
        "top1_about": row.about,
    }
    return {key: value for key, value in values.items() if value is not None}


def planned(settings: RunSettings, num_classes: int) -> dict[str, Any]:
    """What `side4video plan` says of a recipe at its own batch size. GFLOPs count a multiply-add as two."""
    from side4video.build import estimate_run  # torch: not for --check
    from side4video.memory.cards import find_card

    batch = _batch(settings)
    estimate = estimate_run(settings, num_classes)
    found = {mode: estimate(mode, batch) for mode in MODES}
    own = found["balanced"]
    return {
        "batch": batch,
        "peak_gib": round(own.peak_bytes / 2**30, 2),
        "peak_gib_fast": round(found["fast"].peak_bytes / 2**30, 2),
        "gflops_clip": round(own.flops_forward / batch / 1e9, 1),
        "gflops_step": round(own.flops_step / 1e9),
        "seconds_step": round(own.seconds(find_card(CARD)), 2),
        "trained_millions": round(own.trainable_parameters / 1e6, 2),
    }


def comment(name: str, paper: dict[str, Any], plan: dict[str, Any]) -> str:
    """The lines on top of a recipe."""
    settings, dataset = load_settings(name), _dataset(name)
    crops, clips = _test_views(name)
    copies = settings.data.repeated_augmentation
    batch = f"{plan['batch']} clips" + (f" ({settings.data.batch_size} x {copies} copies)" if copies > 1 else "")
    lines = [
        f"{dataset.title}, {model_name(name)}, {settings.data.num_frames} frames, "
        f"side {settings.side.width} {TAPS[str(settings.side.taps)]}{_part(settings)}.",
        "",
        f"  side4video train {name} data.root=/data/{dataset.name} --out runs/{name}",
        f"  side4video evaluate runs/{name} --views {clips}x{crops}",
        "",
        "In data.root: train.txt and val.txt, a line a video: `folder frames label` "
        f"(its frames are {settings.data.frame_pattern})",
        "or `file.mp4 label`, paths relative to data.root. Names of classes: data.classes=FILE (CSV `id,name`).",
        f"Paper: {_paper_line(paper)}.",
        f"Its learning rates are for {GPUS} GPUs with this batch on each.",
        f"Plan, one GPU, {batch} a step: {plan['peak_gib']:.2f} GiB (memory=fast: {plan['peak_gib_fast']:.2f} GiB), "
        f"{plan['trained_millions']:.2f} M trained,",
        f"{plan['gflops_clip']:,.1f} GFLOPs a clip forward, {plan['gflops_step']:,} GFLOPs a step, "
        f"{plan['seconds_step']:.2f} s a step on an {CARD}.",
    ]
    if settings.data.fraction < 1:
        lines.append("The same share of every class, chosen by train.seed; a smaller one lies inside a larger one.")
    if settings.data.shots is not None:
        lines.append(
            "data.shots=K for other K; chosen by train.seed, K inside K+1. The paper has no few-shot numbers, so"
        )
        lines.append("the settings are those of the whole set: fewer clips are fewer steps; see optim.epochs.")
    if name.endswith("-light"):
        lines.append("The light model's settings are not published; these fit its parameters, GFLOPs and memory best.")
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"


def with_comment(text: str, head: str) -> str:
    """A recipe's text with this comment instead of the one on top of it."""
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return head + "".join(lines[first:])


def table(stored: dict[str, dict[str, Any]]) -> str:
    """The table of the docs."""
    rows = [
        "| recipe | frames | side | epochs, lr | batch a GPU | trained M | GFLOPs a clip | plan GiB (fast) | paper GB "
        "| paper top-1 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, values in stored.items():
        settings, plan, paper = load_settings(name), values["plan"], values["paper"]
        side = f"{settings.side.width}{', every second' if settings.side.taps == 'every_second' else ''}"
        memory = f"{paper['memory_gb']:g}" if "memory_gb" in paper else ""
        if "memory_batch" in paper:
            memory += f" at batch {paper['memory_batch']}"
        cells = [
            f"`{name}`",
            str(settings.data.num_frames),
            side,
            f"{settings.optim.epochs}, {settings.optim.lr:g}",
            str(plan["batch"]),
            f"{plan['trained_millions']:.2f}",
            f"{plan['gflops_clip']:,.1f}",
            f"{plan['peak_gib']:.2f} ({plan['peak_gib_fast']:.2f})",
            memory,
            _scores(paper),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def with_table(text: str, rows: str) -> str:
    """The page with this table between its marks."""
    before, _, rest = text.partition(TABLE_START)
    _, _, after = rest.partition(TABLE_END)
    return f"{before}{TABLE_START}\n{rows}{TABLE_END}{after}"


def expected(stored: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """Every file that carries these numbers, and what must be in it."""
    recipes = shipped_recipes()
    files = {
        recipes[name]: with_comment(recipes[name].read_text(), comment(name, values["paper"], values["plan"]))
        for name, values in stored.items()
    }
    return {**files, DOCS: with_table(DOCS.read_text(), table(stored))}


def recognition_recipes() -> list[str]:
    """The recipes that this script describes, in the order of their data sets and sizes."""
    sizes = list(MODELS)
    names = [
        name for name in shipped_recipes() if name.split("-")[1] in MODELS and _dataset(name).task == "recognition"
    ]
    return sorted(names, key=lambda name: (name.split("-")[0], sizes.index(name.split("-")[1]), name))


def model_name(name: str) -> str:
    """The backbone of a recipe, as the paper calls it."""
    return MODELS[name.split("-")[1]]


def estimate_all() -> dict[str, dict[str, Any]]:
    """Paper and plan of every recipe; the same step is estimated once."""
    known: dict[str, dict[str, Any]] = {}
    stored: dict[str, dict[str, Any]] = {}
    for name in recognition_recipes():
        settings, classes = load_settings(name), _dataset(name).num_classes
        assert classes is not None
        step = f"{settings.backbone} {settings.side} {settings.data.num_frames} {_batch(settings)} {classes}"
        known[step] = known.get(step) or planned(settings, classes)
        stored[name] = {"paper": published(name), "plan": known[step]}
        print(f"{name}: {known[step]}", file=sys.stderr, flush=True)
    return stored


def main() -> int:
    """Write, or check; the exit code says whether something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", action="store_true", help="take the estimates that are stored")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file differs")
    options = parser.parse_args()
    if options.check or options.stored:
        kept = json.loads(RESULTS.read_text())
        stored = {name: {"paper": published(name), "plan": values["plan"]} for name, values in kept.items()}
    else:
        stored = estimate_all()
    files = {RESULTS: json.dumps(stored, indent=1) + "\n", **expected(stored)}
    differing = [path for path, text in files.items() if path.read_text() != text]
    for path in differing:
        print(path)
        if not options.check:
            path.write_text(files[path])
    return int(options.check and bool(differing))


def _dataset(name: str) -> KnownDataset:
    return known_dataset(name.split("-", maxsplit=1)[0])


def _test_views(name: str) -> tuple[int, int]:
    views = _dataset(name).test_views
    assert views is not None
    return views


def _batch(settings: RunSettings) -> int:
    return settings.data.batch_size * settings.data.repeated_augmentation


def _scores(paper: dict[str, Any]) -> str:
    parts = [f"{paper['top1']:.1f}"] if "top1" in paper else []
    if "top1_three_views" in paper:
        parts.append(f"{paper['top1_three_views']:.1f} (3 views)")
    if "top1_about" in paper:
        parts.append(f"about {paper['top1_about']:.0f}")
    return ", ".join(parts)


def _part(settings: RunSettings) -> str:
    """Which part of the training clips."""
    if settings.data.shots is not None:
        return f", {settings.data.shots} training clips of each class"
    return f", {settings.data.fraction:.0%} of the training clips" if settings.data.fraction < 1 else ""


def _paper_line(paper: dict[str, Any]) -> str:
    parts: list[str] = []
    if "top1" in paper:
        parts.append(f"top-1 {paper['top1']:.1f} ({paper['views']}, frames x crops x clips)")
    if "top1_three_views" in paper:
        parts.append(f"top-1 {paper['top1_three_views']:.1f} (three views)")
    if "top1_about" in paper:
        parts.append(f"top-1 about {paper['top1_about']:.0f}, read off the figure of data efficiency")
    if "memory_gb" in paper:
        at = f" at batch {paper['memory_batch']}" if "memory_batch" in paper else ""
        parts.append(f"{paper['memory_gb']:g} GB{at}")
    return ", ".join(parts) or "no number for this row"


if __name__ == "__main__":
    sys.exit(main())
