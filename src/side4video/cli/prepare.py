"""`side4video prepare`: a data set as it was downloaded, checked, resized and listed for training."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import note, progress_bar, say, show_table
from side4video.cli.main import DONE, WRONG_DATA, Outcome
from side4video.errors import ConfigError, DataError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.prepare.sources import Source
    from side4video.prepare.work import Prepared

USAGE = "DATASET SRC [DST] [options]"
EXAMPLES = """  side4video prepare ssv2 /downloads/ssv2 --check
  side4video prepare ssv2 /downloads/ssv2 /data/ssv2
  side4video prepare ssv1 /downloads/ssv1 /data/ssv1 --to frames
  side4video prepare k400 /downloads/k400 /data/k400 --size 256 --workers 32
  side4video prepare folder clips/ /data/clips"""

_SHOWN_PROBLEMS = 20


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("dataset", metavar="DATASET", help="ssv1, ssv2, k400, msrvtt, msvd, vatex or folder")
    parser.add_argument("src", metavar="SRC", help="the folder it was downloaded to; nothing in it is changed")
    parser.add_argument("dst", nargs="?", metavar="DST", help="the prepared folder; the same command goes on in it")
    parser.add_switch("--check", help="only say what is there, missing and broken")
    parser.add_option("--to", default="videos", metavar="WHAT", help="videos (H.264) or frames. Default: videos.")
    parser.add_option(
        "--size", type=int, default=256, metavar="PIXELS", help="short side; never scaled up. Default: 256."
    )
    parser.add_option(
        "--gop", type=int, default=12, metavar="N", help="frames from one key frame to the next. Default: 12."
    )
    parser.add_option(
        "--quality", type=int, default=20, metavar="CRF", help="x264's, 0 is best, 51 worst. Default: 20."
    )
    parser.add_option("--workers", type=int, metavar="N", help="processes. Default: one a core.")
    parser.add_common()


def run(options: argparse.Namespace) -> Outcome:
    """Check or prepare; the exit code says whether something is missing or broken.

    Raises:
        ConfigError: an option has a value that is not allowed, or DST is in use or inside SRC.
        DataError: SRC is not that data set.
        OSError: DST cannot be written, or the disk is full.
    """
    if options.to not in ("videos", "frames"):
        raise ConfigError(f"--to: must be videos or frames; got '{options.to}'")
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    for name, value, low, high in (
        ("--workers", workers, 1, None),
        ("--size", options.size, 16, None),
        ("--gop", options.gop, 1, None),
        ("--quality", options.quality, 0, 51),
    ):
        if value < low or (high is not None and value > high):
            limit = f"at least {low}" if high is None else f"{low} to {high}"
            raise ConfigError(f"{name}: must be {limit}; got {value}")
    if options.dst is None and not options.check:
        raise ConfigError("DST is missing: the folder to prepare, or --check")
    src = Path(options.src)
    dst = None if options.check or options.dst is None else Path(options.dst)
    if dst is not None:
        _check_places(src, dst)

    from side4video.data.catalog import KNOWN_DATASETS
    from side4video.prepare.resize import Form
    from side4video.prepare.sources import find_source
    from side4video.prepare.work import check, prepare

    source = find_source(options.dataset, src)
    for text in source.notes:
        note(f"{options.dataset}: {text}")
    known = KNOWN_DATASETS.get(options.dataset)
    pattern = None if known is None else known.frame_pattern
    form = Form(options.to, options.size, options.gop, options.quality, pattern or Form.frame_pattern)
    total = len({clip.target for clip in source.clips if clip.source is not None})
    with progress_bar() as bar:
        task = bar.add_task("checking" if dst is None else "preparing", total=total)

        def progress(done: int) -> None:
            bar.update(task, completed=done)

        if dst is None:
            result = check(source, workers=workers, progress=progress)
        else:
            result = prepare(source, dst, form, workers=workers, progress=progress)
    if not options.json:
        _show(result)
    if dst is not None:
        _say_next(source, dst)
    return Outcome(DONE if result.complete else WRONG_DATA, _as_json(result, dst))


def _check_places(src: Path, dst: Path) -> None:
    if not src.is_dir():
        raise DataError(f"SRC {src}: no such folder")
    if dst.exists() and not dst.is_dir():
        raise ConfigError(f"DST {dst}: is a file; the prepared data needs a folder")
    inside, outside = dst.resolve(), src.resolve()
    if inside == outside or outside in inside.parents:
        raise ConfigError(f"DST {dst} lies in SRC {src}, in which nothing is changed; choose another place")


def _as_json(result: Prepared, dst: Path | None) -> dict[str, Any]:
    from side4video.prepare.sources import PUBLISHED_VIDEOS
    from side4video.prepare.work import problems_of

    source = result.source
    return {
        "dataset": source.dataset,
        "out": None if dst is None else str(dst),
        "ok": result.complete,
        "published_videos": PUBLISHED_VIDEOS.get(source.dataset),
        "videos_there": source.num_files,
        "num_classes": len(source.class_names) or None,
        "splits": _counts(result),
        "written": result.written,
        "missing": [p["clip"] for p in problems_of(result) if p["problem"] == "missing"],
        "broken": [p for p in problems_of(result) if p["problem"] != "missing"],
        "lists": list(result.lists),
        "notes": list(source.notes),
    }


def _counts(result: Prepared) -> dict[str, dict[str, int]]:
    missing, clips = result.source.missing, result.source.clips
    return {
        split: {
            "listed": sum(clip.split == split for clip in clips),
            "missing": sum(clip.split == split for clip in missing),
            "broken": sum(clip.split == split for clip, _ in result.broken),
            "ready": ready,
        }
        for split, ready in result.ready.items()
    }


def _show(result: Prepared) -> None:
    from rich.table import Table

    from side4video.prepare.work import problems_of

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("split")
    for name in ("listed", "missing", "broken", "ready"):
        table.add_column(name, justify="right")
    for split, counts in _counts(result).items():
        table.add_row(split, *(f"{value:,}" for value in counts.values()))
    show_table(table)
    problems = problems_of(result)
    for problem in problems[:_SHOWN_PROBLEMS]:
        say(f"{problem['split']}: {problem.get('path') or problem['clip']}: {problem['problem']}")
    if len(problems) > _SHOWN_PROBLEMS:
        say(f"... and {len(problems) - _SHOWN_PROBLEMS} more; problems.txt in DST and --json list them all")


def _say_next(source: Source, dst: Path) -> None:
    if source.dataset == "folder":
        val = f" --val {dst / 'val.csv'}" if "val" in source.splits() else ""
        note(f"next: side4video train {dst / 'train.csv'}{val} --out RUN")
        return
    classes = "" if source.retrieval else " data.classes=classes.csv"
    note(f"next: side4video train {source.dataset}-b16 data.root={dst}{classes} --out RUN")
