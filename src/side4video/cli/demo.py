"""`side4video demo`: the whole job on clips that it draws itself, with the numbers that it measured."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from side4video.cli.console import note, say, show_table
from side4video.cli.main import Outcome
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.demo.run import DemoResult

USAGE = "[--task retrieval] [--out DIR | --keep] [--seed N] [--json]"
EXAMPLES = """  side4video demo
  side4video demo --out demo        keep the clips and the run, to look at and to try the other commands on
  side4video demo --task retrieval  find clips by what their captions say"""


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_option(
        "--task",
        choices=["recognition", "retrieval"],
        default="recognition",
        help="what is learned: to name motions, or to find clips by text",
    )
    parser.add_option("--out", metavar="DIR", help="keep clips and run in this folder, which must be new or empty")
    parser.add_switch("--keep", help="keep them in a temporary folder; otherwise they are deleted in the end")
    parser.add_option("--seed", type=int, default=0, metavar="N", help="another seed: other clips, other weights")
    parser.add_common()


def run(options: argparse.Namespace) -> Outcome:
    """Draw, train, evaluate, and predict or search.

    Raises:
        ConfigError: a negative seed, or a folder that is in use.
        TrainingError: training had to stop.
    """
    started = time.monotonic()
    if options.seed < 0:
        raise ConfigError(f"--seed: must be at least 0; got {options.seed}")
    if options.out is not None:
        folder = Path(options.out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out {folder}: must be a new or empty folder; nothing is overwritten")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="side4video-demo-"))
    kept = options.keep or options.out is not None
    try:
        # torch comes in here
        from side4video.training.progress import make_progress

        def tell(step: str) -> None:
            note(f"[{time.monotonic() - started:4.0f} s] {step}")

        if options.task == "retrieval":
            from side4video.cli.demo_retrieval import run_and_show

            return run_and_show(
                folder,
                seed=options.seed,
                tell=tell,
                progress=make_progress(),
                started=started,
                kept=kept,
                json=options.json,
            )
        from side4video.demo.run import run_demo

        result = run_demo(folder, seed=options.seed, tell=tell, progress=make_progress())
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started
    if not options.json:
        _show(result, seconds, kept=kept)
    return Outcome(value=result.as_json(seconds))


def _show(result: DemoResult, seconds: float, *, kept: bool) -> None:
    from rich.table import Table

    table = Table(
        title=f"{result.num_val} validation clips, {result.num_classes} motions in pairs of opposites",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("top-1", justify="right")
    table.add_column("right direction", justify="right")
    rows = (
        ("side network", result.top1, result.direction),
        ("side network, frames shuffled", result.shuffled_top1, result.shuffled_direction),
        ("linear probe on the frame-average of the frozen features", result.probe_top1, result.probe_direction),
        ("chance", 1 / result.num_classes, 0.5),
    )
    for name, top1, direction in rows:
        table.add_row(name, f"{100 * top1:.1f} %", f"{100 * direction:.1f} %")
    say()
    show_table(table)
    predicted = result.predicted
    guesses = ", ".join(f"{name} {100 * score:.0f} %" for name, score in predicted.top)
    say(f"one of these clips: {predicted.caption}")
    say(f"  drawn as {predicted.truth}; predicted: {guesses}")
    say(
        f"trained {result.trained_parameters:,} parameters beside {result.frozen_parameters:,} frozen ones, "
        f"on {result.num_train} clips; {seconds:.0f} s in all"
    )
    say()
    if kept:
        say(f"clips   {result.clips}")
        say(f"run     {result.run}")
        say("next:")
        say(f"  side4video evaluate {result.run}")
        say(f"  side4video predict {result.run} {predicted.path}")
    else:
        say("next:")
        say("  side4video demo --out demo              the same, and the clips and the run are kept")
    say("  side4video train clips/ --out runs/mine  your own clips, in one folder per class")
