"""Writes what each shipped recipe of retrieval says about itself: its comment, `retrieval_results.json`, docs table.

    python scripts/write_retrieval_notes.py            count and estimate (on tensors without numbers) and write
    python scripts/write_retrieval_notes.py --check    write nothing; say which files differ

The paper's numbers are below; it gives one row of ViT-B/32 and the best of each data set, not which backbone that was.
Settings in a recipe are written by hand; everything above its first line that is no comment is written here.

Source: Side4Video, arXiv:2311.15769, text-video retrieval. The side network beside ViT-E/14 is not published for
retrieval; recognition's is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from side4video.backbones import create_backbone
from side4video.backbones.base import FrozenBackbone
from side4video.build import build_spec
from side4video.build_plan import plan_estimator
from side4video.build_retrieval import build_text_model
from side4video.config.load import RECIPE_FOLDER, load_settings, shipped_recipes
from side4video.config.schema import RunSettings
from side4video.data.catalog import KNOWN_DATASETS
from side4video.memory.cards import find_card
from side4video.tasks.retrieval import VideoTextModel

RESULTS = RECIPE_FOLDER / "retrieval_results.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "retrieval.md"
TABLE_START, TABLE_END = "<!-- table: scripts/write_retrieval_notes.py -->", "<!-- end of table -->"
GPUS = 8
CARD = "a100-80gb"

ROWS: dict[str, dict[str, float]] = {"msrvtt-b32": {"t2v_r1": 44.2, "memory_gb": 5.8}}
BEST = {"msrvtt": 52.3, "msvd": 56.1, "vatex": 68.8}
MODELS = {"b32": "CLIP ViT-B/32", "b16": "CLIP ViT-B/16", "l14": "CLIP ViT-L/14", "e14": "EVA02-CLIP ViT-E/14"}
FILES = {
    "msrvtt": "MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv, MSRVTT_data.json",
    "msvd": "train_list.txt, val_list.txt, test_list.txt, raw-captions.pkl, youtube_mapping.txt",
    "vatex": "train_list.txt, val_list.txt, test_list.txt, vatex_data.json",
}


def retrieval_recipes() -> list[str]:
    """Names, in the order of data sets and sizes."""
    shipped = shipped_recipes()
    return [name for data in BEST for size in MODELS if (name := f"{data}-{size}") in shipped]


def published(name: str) -> dict[str, float]:
    """What the paper says of a recipe, as it is stored."""
    return {**ROWS.get(name, {}), "t2v_r1_best": BEST[name.partition("-")[0]]}


def meta_model(settings: RunSettings) -> VideoTextModel:
    """The model of these settings, without numbers."""
    backbone = _backbone(settings.backbone.name)
    with torch.device("meta"):
        unloaded = settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"pretrained": False})})
        return build_text_model(unloaded, backbone, build_spec(settings.side, backbone, retrieval=True))


def counted(settings: RunSettings) -> dict[str, float]:
    """Trained parameters in millions: all, and those of the side network."""
    sizes = {name: value.numel() for name, value in meta_model(settings).named_trained_parameters()}
    side = sum(size for name, size in sizes.items() if name.startswith(("side.", "side_proj")))
    return {"trained_millions": round(sum(sizes.values()) / 1e6, 2), "side_millions": round(side / 1e6, 2)}


def planned(settings: RunSettings) -> dict[str, float]:
    """What `side4video plan` says of a step with the pairs of one of the GPUs; one GPU embeds as many at a time."""
    pairs = settings.data.batch_size // GPUS
    estimate = plan_estimator(settings, 0)
    own, fast = (estimate(mode, pairs) for mode in (settings.memory, "fast"))
    return {
        "pairs": pairs,
        "peak_gib": round(own.peak_bytes / 2**30, 2),
        "peak_gib_fast": round(fast.peak_bytes / 2**30, 2),
        "gflops_step": round(own.flops_step / 1e9),
        "seconds_step": round(own.seconds(find_card(CARD)), 2),
    }


def described() -> dict[str, dict[str, Any]]:
    """Paper and plan of every recipe; the same step is estimated once."""
    known: dict[str, dict[str, float]] = {}
    stored: dict[str, dict[str, Any]] = {}
    for name in retrieval_recipes():
        settings = load_settings(name)
        step = f"{settings.backbone} {settings.side} {settings.data.num_frames} {settings.data.batch_size}"
        known[step] = known.get(step) or {**counted(settings), **planned(settings)}
        stored[name] = {"paper": published(name), "plan": known[step]}
    return stored


def comment(name: str, values: dict[str, Any]) -> str:
    """The lines on top of a recipe."""
    settings = load_settings(name)
    data, size = name.split("-")
    test = "" if data == "msrvtt" else " retrieval.val_split=test"
    taps = "after every block" if settings.side.taps == "all" else "after every second block"
    batch, chunk = settings.data.batch_size, settings.retrieval.chunk_size
    lines = [
        f"{KNOWN_DATASETS[data].title}, {MODELS[size]}, {settings.data.num_frames} frames, side {settings.side.width} "
        f"{taps}: text-video retrieval.",
        "",
        f"  side4video train {name} data.root=/data/{data} --out runs/{name}",
        f"  side4video evaluate runs/{name}{test}",
        "",
        f"In data.root: the folder {settings.data.train} with",
        f"  {FILES[data]},",
        "and the videos (or folders of frames img_00001.jpg ...) by their names, at any depth.",
        f"Paper, text to video: {paper_line(name)}.",
        f"Its batch of {batch} is spread over {GPUS} GPUs. "
        f"One process embeds it in chunks of {chunk}, whose batch norm is that of one",
        f"of those GPUs; with as many: train.devices={GPUS} data.batch_size={batch // GPUS} retrieval.chunk_size=null.",
        f"Trained: {values['trained_millions']:.2f} M, {values['side_millions']:.2f} M of them the side network's; the "
        f"text tower at {settings.retrieval.pretrained_lr_ratio:g} of the rate.",
        f"Plan, one of {GPUS} GPUs, {values['pairs']} pairs a step: {values['peak_gib']:.2f} GiB "
        f"(memory=fast: {values['peak_gib_fast']:.2f} GiB), {values['gflops_step']:,} GFLOPs a step,",
        f"{values['seconds_step']:.2f} s a step on an {CARD}; one GPU with chunks of {chunk} takes the same memory.",
    ]
    if size == "e14":
        lines.append("The side network beside ViT-E/14 is not published for retrieval; this is recognition's.")
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"


def paper_line(name: str) -> str:
    """The paper's numbers in words."""
    row, best = ROWS.get(name), BEST[name.partition("-")[0]]
    if row is None:
        return f"R@1 {best} with its best backbone; this row is not published"
    return f"R@1 {row['t2v_r1']}, {row['memory_gb']} GB (best over its backbones: {best})"


def table(stored: dict[str, dict[str, Any]]) -> str:
    """The table of the docs."""
    rows = [
        "| recipe | backbone | side | trained M (side M) | plan GiB (fast) | paper R@1 | paper GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in stored.items():
        side, plan, row = load_settings(name).side, values["plan"], ROWS.get(name, {})
        width = f"{side.width}{', every second' if side.taps == 'every_second' else ''}"
        score = f"{row['t2v_r1']}" if row else f"(best {BEST[name.partition('-')[0]]})"
        cells = [f"`{name}`", MODELS[name.partition("-")[2]], width]
        cells += [f"{plan['trained_millions']:.2f} ({plan['side_millions']:.2f})"]
        cells += [f"{plan['peak_gib']:.2f} ({plan['peak_gib_fast']:.2f})", score, f"{row.get('memory_gb', '')}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def expected(stored: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """Every file that carries these numbers, and what must be in it."""
    recipes = shipped_recipes()
    files = {recipes[name]: _below(recipes[name].read_text(), comment(name, stored[name]["plan"])) for name in stored}
    before, _, rest = DOCS.read_text().partition(TABLE_START)
    after = rest.partition(TABLE_END)[2]
    return {**files, DOCS: f"{before}{TABLE_START}\n{table(stored)}{TABLE_END}{after}"}


def main() -> int:
    """Write, or check; the exit code says whether something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file differs")
    options = parser.parse_args()
    stored = described()
    files = {RESULTS: json.dumps(stored, indent=1) + "\n", **expected(stored)}
    differing = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    for path in differing:
        print(path)
        if not options.check:
            path.write_text(files[path])
    return int(options.check and bool(differing))


@cache
def _backbone(name: str) -> FrozenBackbone:
    return create_backbone(name, device="meta")


def _below(text: str, head: str) -> str:
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return head + "".join(lines[first:])


if __name__ == "__main__":
    sys.exit(main())
