"""The part of `side4video predict` that looks for what happens when: its options, the work, and what is shown."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, note, progress_bar, show_table
from side4video.cli.main import BAD_INPUT, DONE, WRONG_DATA, Outcome
from side4video.cli.pass_plan import plan_rows, show_plan
from side4video.cli.video_paths import Found
from side4video.errors import ConfigError, VideoError
from side4video.streaming.clock import clock

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.streaming.timeline import Timeline, TimelineSettings

NUM_THUMBNAILS = 16
_OPTIONS = ("fps", "stride", "threshold", "min_seconds", "gap_seconds", "out")


def add_timeline_arguments(parser: CommandParser) -> None:
    """The options of timelines."""
    parser.add_switch(
        "--timeline",
        help="say what happens when: windows slide over the whole video, and become segments with start, end and score",
    )
    parser.add_option(
        "--fps",
        type=float,
        metavar="N",
        help="with --timeline, frames a second to look at. A window is the run's number of frames at this rate: choose "
        "it so that a window lasts about as long as a training clip. Default: 2.",
    )
    parser.add_option(
        "--stride",
        type=int,
        metavar="N",
        help="with --timeline, frames from one window to the next, at most a window. Default: a quarter of a window.",
    )
    parser.add_option(
        "--threshold",
        type=float,
        metavar="X",
        help="with --timeline, the score from which on a label counts. Default: 0.5; for a sentence half way between "
        "its mean and its highest score in the video.",
    )
    parser.add_option(
        "--min-seconds", type=float, metavar="S", help="with --timeline, leave out shorter segments. Default: 0."
    )
    parser.add_option(
        "--gap-seconds",
        type=float,
        metavar="S",
        help="with --timeline, join segments of one label that are at most this far apart. Default: 0.5.",
    )
    parser.add_option(
        "--out",
        action="append",
        metavar="FILE",
        help="with --timeline, write .csv, .json (with all scores), .srt (subtitles) or .html (a page with a coloured "
        "timeline); may be given several times",
    )


def check_timeline_options(options: argparse.Namespace) -> None:
    """Refuse options of timelines without `--timeline`.

    Raises:
        ConfigError: there is one.
    """
    if options.timeline:
        return
    for name in _OPTIONS:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} is for --timeline, which is not given")


def run_timelines(options: argparse.Namespace, found: Found, overrides: Mapping[str, Any]) -> Outcome:
    """Make the timelines of all videos, show them and write them.

    Raises:
        ConfigError: an option has a value that is not allowed.
        CheckpointError: a run is damaged.
        OSError: a file cannot be written.
    """
    # torch comes in here: what is above and the paths are checked without it
    from side4video.streaming.timeline import TimelineSettings
    from side4video.streaming.write import as_json, check_outputs, write_timelines

    given = {name: getattr(options, name) for name in _OPTIONS if name != "out" and getattr(options, name) is not None}
    settings = TimelineSettings(**given)
    outputs = [Path(name) for name in options.out or ()]
    check_outputs(outputs, num_timelines=len(found.videos) * len(found.runs))
    lines, num_unreadable = _make(options, found, overrides, settings, with_pictures=_has_page(outputs))
    if lines:
        for path in outputs:
            write_timelines(path, lines)
            note(f"wrote {path}")
    if lines and not options.json:
        _show(lines, found.runs)
    if num_unreadable:
        note(f"{num_unreadable} of {len(found.videos)} videos could not be read")
    code = BAD_INPUT if not lines else WRONG_DATA if num_unreadable or found.missing else DONE
    return Outcome(code, [as_json(line) for line in lines])


def _make(
    options: argparse.Namespace,
    found: Found,
    overrides: Mapping[str, Any],
    settings: TimelineSettings,
    *,
    with_pictures: bool,
) -> tuple[list[Timeline], int]:
    """All timelines, video by video, and how many videos could not be read."""
    from side4video.build_streaming import load_scorers
    from side4video.streaming.timeline import make_timelines

    loaded = load_scorers(
        found.runs, overrides=overrides, sentences=options.text or (), same_pixels=options.same_pixels
    )
    if len(found.runs) > 1:
        show_plan(plan_rows(loaded.scorers))
    for scorer in loaded.scorers:
        settings.plan(scorer.num_frames)
    lines: list[Timeline] = []
    num_unreadable = 0
    with progress_bar() as bar:
        for path in found.videos:
            task = bar.add_task(path.name, total=100)
            try:
                lines += make_timelines(
                    loaded.scorers,
                    path,
                    settings=settings,
                    progress=lambda share, task=task: bar.update(task, completed=int(100 * share)),
                    thumbnails=NUM_THUMBNAILS if with_pictures else 0,
                    autocast=loaded.runtime.autocast,
                )
            except VideoError as error:
                num_unreadable += 1
                fail(f"{path}: {error.reason}")
            bar.remove_task(task)
    return lines, num_unreadable


def _has_page(outputs: Sequence[Path]) -> bool:
    return any(path.suffix.lower() == ".html" for path in outputs)


def _show(lines: Sequence[Timeline], runs: Sequence[Path]) -> None:
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("video", overflow="fold")
    if len(runs) > 1:
        table.add_column("run", overflow="fold")
    for name in ("from", "to"):
        table.add_column(name, justify="right")
    table.add_column("label", overflow="fold")
    table.add_column("score", justify="right")
    for line in lines:
        names = [str(line.path), *([line.model] if len(runs) > 1 else [])]
        rows = [
            [
                clock(part.start_seconds),
                clock(part.end_seconds),
                part.label,
                f"{100 * part.score:.1f} %" if line.exclusive else f"{part.score:.3f}",
            ]
            for part in line.segments
        ] or [["", "", "nothing reaches the threshold", ""]]
        for number, row in enumerate(rows):
            head = names if number == 0 else [""] * len(names)
            table.add_row(*head, *row, end_section=number == len(rows) - 1)
    show_table(table)
