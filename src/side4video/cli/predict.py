"""`side4video predict`: name the action in video files, folders and globs, or with `--timeline` what happens when."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, note, progress_bar, show_table
from side4video.cli.main import BAD_INPUT, DONE, WRONG_DATA, Outcome
from side4video.cli.pass_plan import plan_rows, show_plan
from side4video.cli.timelines import add_timeline_arguments, check_timeline_options, run_timelines
from side4video.cli.video_paths import find_videos
from side4video.cli.views import parse_views
from side4video.config.load import parse_overrides
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser

USAGE = "RUN [RUN ...] VIDEO [VIDEO ...] [options]"
EXAMPLES = """  side4video predict runs/mine video.mp4
  side4video predict runs/mine footage/ 'more/**/*.mkv' --top-k 3 --json
  side4video predict runs/actions runs/sports video.mp4 --views 10x3
  side4video predict runs/mine long.mp4 --timeline --fps 4 --out long.html --out long.srt
  side4video predict runs/retrieval long.mp4 --timeline --text "a dog jumps" --text "a ball rolls" --fps 4"""

SHORT_FLAGS = {
    "--num-frames": "data.num_frames",
    "--workers": "data.workers",
    "--accelerator": "train.accelerator",
}
CHANGEABLE = frozenset({*SHORT_FLAGS.values(), "data.sampling", "data.resize", "train.precision"})


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|VIDEO",
        help="run folders first, then video files, folders (looked through to the bottom) and globs",
    )
    parser.add_option("--top-k", type=int, default=5, metavar="K", help="labels to show for each video. Default: 5.")
    parser.add_option(
        "--views",
        default="4x1",
        metavar="CLIPSxCROPS",
        help="looks at each video, whose scores are averaged: CLIPS choices of frames over the whole of it, each in "
        "CROPS (1, 3 or 5) parts of the picture. Default: 4x1.",
    )
    parser.add_option(
        "--text",
        action="append",
        metavar="SENTENCE",
        help="for retrieval runs, a sentence to score each video by; may be given several times",
    )
    parser.add_switch(
        "--same-pixels",
        help="let runs on one backbone look at the same crop of a picture, the first one's, so that they share a pass; "
        "classifiers and retrieval runs crop differently otherwise",
    )
    add_timeline_arguments(parser)
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Predict, and name what could not be read.

    Raises:
        ConfigError: an option has a value that is not allowed, or the first word is no run.
        CheckpointError: a run is damaged.
    """
    if options.top_k < 1:
        raise ConfigError(f"--top-k: must be at least 1; got {options.top_k}")
    views = parse_views(options.views)
    check_timeline_options(options)
    # where it was trained says nothing about where it is used
    overrides = {"train.accelerator": "auto", **parse_overrides(options.overrides)}
    found = find_videos(options.words)
    for word, reason in found.missing:
        fail(f"{word}: {reason}")
    if not found.videos:
        return Outcome(BAD_INPUT)
    if options.timeline:
        return run_timelines(options, found, overrides)

    # torch comes in here: everything above is checked without it
    from side4video.build_predictions import Prediction, Unreadable, make_looks, predict_videos
    from side4video.build_streaming import load_scorers

    loaded = load_scorers(
        found.runs, overrides=overrides, sentences=options.text or (), same_pixels=options.same_pixels
    )
    looks = make_looks(loaded, clips=views.clips, crops=views.crops)
    if len(found.runs) > 1:
        show_plan(plan_rows(loaded.scorers))
    entries: list[dict[str, Any]] = []
    shown: list[tuple[str, Prediction]] = []
    num_unreadable = 0
    with progress_bar() as bar:
        task = bar.add_task("predicting", total=len(found.videos))
        for video in predict_videos(loaded, looks, found.videos, top_k=options.top_k):
            bar.advance(task)
            if isinstance(video, Unreadable):
                num_unreadable += 1
                fail(f"{video.path}: {video.reason}")
                continue
            for run_path, prediction in video:
                shown.append((run_path, prediction))
                entries.append(_as_json(run_path, prediction, name_run=len(found.runs) > 1))
    if not options.json and shown:
        _show(shown, found.runs)
    if num_unreadable:
        note(f"{num_unreadable} of {len(found.videos)} videos could not be read")
    code = BAD_INPUT if not entries else WRONG_DATA if num_unreadable or found.missing else DONE
    return Outcome(code, entries)


def _as_json(run_path: str, prediction: Any, *, name_run: bool) -> dict[str, Any]:
    return {
        "path": str(prediction.path),
        **({"run": run_path} if name_run else {}),
        "predictions": [{"label": label, "score": score} for label, score in prediction.top],
        "frames_decoded": prediction.frames_decoded,
    }


def _show(shown: Sequence[tuple[str, Any]], runs: Sequence[Path]) -> None:
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("video", overflow="fold")
    if len(runs) > 1:
        table.add_column("run", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("score", justify="right")
    for run_path, prediction in shown:
        for rank, (label, score) in enumerate(prediction.top):
            names = [str(prediction.path), *([run_path] if len(runs) > 1 else [])]
            cells = names if rank == 0 else [""] * len(names)
            last = 0 < rank == len(prediction.top) - 1
            table.add_row(
                *cells, label, f"{100 * score:.1f} %" if prediction.exclusive else f"{score:.3f}", end_section=last
            )
    show_table(table)
