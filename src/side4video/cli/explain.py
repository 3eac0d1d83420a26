"""`side4video explain`: which places and moments of a video made a model say what it says, as pictures and numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, note, progress_bar, say, show_table
from side4video.cli.main import BAD_INPUT, DONE, WRONG_DATA, Outcome
from side4video.cli.video_paths import find_videos
from side4video.config.load import parse_overrides
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from side4video.cli.explanation import ExplainedVideo
    from side4video.cli.parser import CommandParser

USAGE = "RUN VIDEO [VIDEO ...] [--target LABEL | --text SENTENCE] [--out DIR|FILE] [options]"
EXAMPLES = """  side4video explain runs/mine video.mp4
  side4video explain runs/mine video.mp4 --target jump --out jump.gif
  side4video explain runs/retrieval video.mp4 --text "a dog jumps into water" --json"""

SHORT_FLAGS = {"--num-frames": "data.num_frames", "--accelerator": "train.accelerator"}
CHANGEABLE = frozenset({*SHORT_FLAGS.values(), "data.sampling", "data.resize"})
SUFFIXES = (".mp4", ".gif", ".png")
DEFAULT_OUT = "explained"


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "words", nargs="+", metavar="RUN|VIDEO", help="the run folder first, then video files, folders and globs"
    )
    parser.add_option(
        "--target", metavar="LABEL", help="the class to explain, by name or number. Default: the likeliest one."
    )
    parser.add_option(
        "--text", metavar="SENTENCE", help="for a retrieval run: the sentence whose similarity to explain"
    )
    parser.add_option(
        "--out",
        default=DEFAULT_OUT,
        metavar="DIR|FILE",
        help="a folder for an mp4, a GIF and a PNG strip of each video, or one file that ends in .mp4, .gif or .png. "
        f"Default: the folder {DEFAULT_OUT}.",
    )
    parser.add_option(
        "--steps",
        type=int,
        default=16,
        metavar="N",
        help="points at which the side network is differentiated; more bring the sum of the contributions nearer to "
        "the score. Default: 16.",
    )
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Explain, write pictures, and name what could not be read.

    Raises:
        ConfigError: an option has a value that is not allowed, or the first word is no run.
        CheckpointError: the run is damaged.
        OSError: a picture cannot be written.
    """
    if options.steps < 1:
        raise ConfigError(f"--steps: must be at least 1; got {options.steps}")
    if options.target is not None and options.text is not None:
        raise ConfigError("--target is for recognition runs and --text for retrieval runs; give one of them")
    overrides = {"train.accelerator": "auto", **parse_overrides(options.overrides)}
    found = find_videos(options.words)
    if len(found.runs) > 1:
        raise ConfigError(f"one run is explained at a time; got {len(found.runs)}")
    for word, reason in found.missing:
        fail(f"{word}: {reason}")
    if not found.videos:
        return Outcome(BAD_INPUT)
    targets = picture_paths(Path(options.out), found.videos)

    # torch comes in here: everything above is checked without it
    from side4video.cli.explanation import explain_video, load_explainer, write_pictures
    from side4video.errors import VideoError

    explainer = load_explainer(found.runs[0], overrides, target=options.target, text=options.text, steps=options.steps)
    entries: list[dict[str, Any]] = []
    with progress_bar() as bar:
        task = bar.add_task("explaining", total=len(found.videos))
        for path, files in zip(found.videos, targets, strict=True):
            try:
                video = explain_video(explainer, path)
                write_pictures(explainer, video, files)
            except VideoError as error:
                fail(str(error))
                continue
            finally:
                bar.advance(task)
            entries.append(video.as_json(files))
            if not options.json:
                _show(video, files)
    num_unreadable = len(found.videos) - len(entries)
    if num_unreadable:
        note(f"{num_unreadable} of {len(found.videos)} videos could not be read")
    code = BAD_INPUT if not entries else WRONG_DATA if num_unreadable or found.missing else DONE
    return Outcome(code, entries)


def picture_paths(out: Path, videos: Sequence[Path]) -> list[tuple[Path, ...]]:
    """The files to write for each video; videos of one name in different folders get different files.

    Raises:
        ConfigError: one file for several videos, an unknown kind of file, or a folder that is a file.
    """
    if out.suffix and not out.is_dir():
        if out.suffix not in SUFFIXES:
            raise ConfigError(f"--out: a file must end in {', '.join(SUFFIXES)}; got '{out}'")
        if len(videos) > 1:
            raise ConfigError(f"--out: one file cannot show {len(videos)} videos; name a folder")
        return [(out,)]
    if out.is_file():
        raise ConfigError(f"--out: '{out}' is a file; name a folder, or a file that ends in {', '.join(SUFFIXES)}")
    taken: set[str] = set()
    paths: list[tuple[Path, ...]] = []
    for video in videos:
        name, number = video.stem, 2
        while name in taken:
            name, number = f"{video.stem}-{number}", number + 1
        taken.add(name)
        paths.append(tuple(out / f"{name}{suffix}" for suffix in SUFFIXES))
    return paths


def _show(video: ExplainedVideo, files: Sequence[Path]) -> None:
    from rich.table import Table

    found = video.explanation
    kind = "log-odds" if found.target is not None else "similarity"
    score = f"{100 * found.score:.1f} %" if found.target is not None else f"{found.score:.3f}"
    say(f"{video.path}: {found.label}, {score}")
    say(f"{kind} {found.evidence:+.2f}; {found.baseline:+.2f} without places and moments; the difference is made by")
    table = Table(show_edge=False, pad_edge=False)
    for title in ("frame", "time", "adds"):
        table.add_column(title, justify="right")
    for frame, seconds, added in zip(video.frames, video.seconds, found.contributions_LT.sum(0).tolist(), strict=True):
        table.add_row(str(frame), f"{seconds:.2f} s", f"{added:+.2f}")
    show_table(table)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("part")
    table.add_column("adds", justify="right")
    for name, added in zip(found.tap_names, found.contributions_LT.sum(1).tolist(), strict=True):
        table.add_row(name, f"{added:+.2f}")
    table.add_row("rounding of the sum", f"{found.missing:+.2f}")
    show_table(table)
    say("wrote " + ", ".join(str(path) for path in files))
