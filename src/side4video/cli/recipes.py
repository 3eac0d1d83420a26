"""`side4video recipes`: the recipes inside the package, one line each. Nothing heavy is imported."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, note, say
from side4video.cli.main import BAD_INPUT, Outcome
from side4video.config import load
from side4video.data.catalog import KNOWN_DATASETS
from side4video.errors import nearest_names

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser

USAGE = "[PATTERN] [--json]"
EXAMPLES = """  side4video recipes
  side4video recipes ssv2
  side4video recipes '*-l14*' --json
  side4video train ssv2-b16 data.root=/data/ssv2 --out runs/ssv2-b16"""

RESULTS = ("results.json", "retrieval_results.json")
_HEADER = ("name", "data set", "backbone", "frames", "side", "paper's top-1 or R@1")
_NUMBERS = {"frames"}


@dataclass(frozen=True)
class RecipeEntry:
    """A shipped recipe. `paper` and `plan` are empty where nothing is known; their units are in their keys."""

    name: str
    path: str
    dataset: str
    backbone: str
    num_frames: int
    side_width: int
    taps: str
    paper: dict[str, Any]
    plan: dict[str, Any]


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="a part of the name, or a glob")
    parser.add_common()


def run(options: argparse.Namespace) -> Outcome:
    """List."""
    entries = list_recipes(options.pattern)
    if not entries:
        hint = nearest_names(options.pattern, load.shipped_recipes()) or "; `side4video recipes` lists them all"
        fail(f"no recipe matches '{options.pattern}'{hint}")
        return Outcome(BAD_INPUT, [])
    if not options.json:
        _show(entries)
    return Outcome(value=[asdict(entry) for entry in entries])


def list_recipes(pattern: str = "") -> list[RecipeEntry]:
    """The shipped recipes whose name has `pattern` in it, or fits it as a glob, in any case of letters.

    Raises:
        ConfigError: a recipe that cannot be read.
    """
    wanted = pattern.lower()
    glob = wanted if any(letter in wanted for letter in "*?[") else f"*{wanted}*"
    results = _results()
    return [
        _entry(name, path, results.get(name, {}))
        for name, path in sorted(load.shipped_recipes().items())
        if fnmatchcase(name.lower(), glob)
    ]


def _results() -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    for file in (load.RECIPE_FOLDER / name for name in RESULTS):
        known |= json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return known


def _entry(name: str, path: Path, known: dict[str, Any]) -> RecipeEntry:
    settings = load.load_settings(path)
    dataset = KNOWN_DATASETS.get(name.split("-", maxsplit=1)[0])
    taps = settings.side.taps
    return RecipeEntry(
        name=name,
        path=str(path),
        dataset="" if dataset is None else dataset.title,
        backbone=settings.backbone.name,
        num_frames=settings.data.num_frames,
        side_width=settings.side.width,
        taps="" if taps is None else str(taps),
        paper=known.get("paper", {}),
        plan=known.get("plan", {}),
    )


def _show(entries: list[RecipeEntry]) -> None:
    """Plain columns, not a rich table: made for grep."""
    rows = [_HEADER, *(_row(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        cells = zip(row, widths, _HEADER, strict=True)
        line = "  ".join(cell.rjust(width) if title in _NUMBERS else cell.ljust(width) for cell, width, title in cells)
        say(line.rstrip())
    note(f"{len(entries)} recipes; use one with: side4video train NAME data.root=FOLDER --out RUN")


def _row(entry: RecipeEntry) -> tuple[str, ...]:
    side = f"{entry.side_width}{'' if entry.taps in {'', 'all'} else f' {entry.taps}'}"
    score = "-"
    if "top1" in entry.paper:
        score = f"{entry.paper['top1']:.1f} ({entry.paper['views']})"
    elif "top1_three_views" in entry.paper:
        score = f"{entry.paper['top1_three_views']:.1f} (three views)"
    elif "top1_about" in entry.paper:
        score = f"about {entry.paper['top1_about']:.0f} (figure)"
    elif "t2v_r1" in entry.paper:
        score = f"R@1 {entry.paper['t2v_r1']:.1f}"
    elif "t2v_r1_best" in entry.paper:
        score = f"R@1 at best {entry.paper['t2v_r1_best']:.1f}"
    return entry.name, entry.dataset or "-", entry.backbone, str(entry.num_frames), side, score
