"""`side4video embed`: the vectors of videos in a file, one a frame and one a window."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from side4video.cli.console import fail, note, progress_bar, say
from side4video.cli.main import BAD_INPUT, DONE, WRONG_DATA, Outcome
from side4video.cli.video_paths import find_videos
from side4video.config.load import parse_overrides
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser

USAGE = "RUN VIDEO [VIDEO ...] --out FILE.safetensors|.parquet [options]"
EXAMPLES = """  side4video embed runs/mine footage/ --out vectors.safetensors
  side4video embed runs/mine 'footage/**/*.mp4' --frames 16 --stride 16 --fps 4 --out vectors.parquet"""

SHORT_FLAGS = {"--accelerator": "train.accelerator"}
CHANGEABLE = frozenset({*SHORT_FLAGS.values(), "train.precision"})


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|VIDEO",
        help="the run folder first (of a retrieval model or a classifier), then video files, folders and globs",
    )
    parser.add_option("--out", required=True, metavar="FILE", help="where to write: .safetensors or .parquet")
    parser.add_option("--frames", type=int, metavar="T", help="frames of a window. Default: the run's data.num_frames.")
    parser.add_option("--stride", type=int, metavar="N", help="frames from window to window. Default: half a window.")
    parser.add_option(
        "--fps",
        type=float,
        metavar="RATE",
        help="frames a second that are looked at; a video shorter than a window is looked at closer. Default: 2.",
    )
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Embed, write, and name what could not be read.

    Raises:
        ConfigError: an option has a value that is not allowed, or the first word is no run.
        CheckpointError: the run is damaged.
        MissingExtraError: parquet, and pyarrow is not installed.
    """
    out = Path(options.out)
    overrides = {"train.accelerator": "auto", **parse_overrides(options.overrides)}
    found = find_videos(options.words)
    if len(found.runs) > 1:
        raise ConfigError(f"a file holds the vectors of one run; got {len(found.runs)}")
    if out.suffix.lower() not in (".safetensors", ".parquet"):
        raise ConfigError(f"--out: must end in .safetensors or .parquet; got '{out}'")
    for word, reason in found.missing:
        fail(f"{word}: {reason}")
    if not found.videos:
        return Outcome(BAD_INPUT)
    (folder,) = found.runs

    # torch comes in here: everything above is checked without it
    from side4video.cli.search_model import load_embedder, run_settings
    from side4video.errors import VideoError
    from side4video.search.embedding import EmbeddedWindow, WindowSettings
    from side4video.search.run_identity import run_identity
    from side4video.search.vector_files import check_vectors_path, write_vectors

    check_vectors_path(out)
    settings = run_settings(folder, overrides, needs_text=False)
    windows = WindowSettings.for_model(
        settings.data.num_frames, frames=options.frames, stride=options.stride, fps=options.fps
    )
    embedder = load_embedder(folder, settings, windows)
    embedded: list[tuple[str, list[EmbeddedWindow]]] = []
    unreadable: list[dict[str, str]] = []
    with progress_bar() as bar:
        task = bar.add_task("embedding", total=len(found.videos))
        for path in found.videos:
            try:
                embedded.append((str(path), embedder.embed(path)))
            except VideoError as error:
                fail(str(error))
                unreadable.append({"path": str(path), "reason": error.reason})
            bar.advance(task)
    if unreadable:
        note(f"{len(unreadable)} of {len(found.videos)} videos could not be read")
    if not embedded:
        return Outcome(BAD_INPUT)
    write_vectors(
        out, embedded, model=run_identity(folder), settings=windows, task=settings.task, run=str(folder.absolute())
    )
    value = {
        "out": str(out),
        "videos": len(embedded),
        "windows": sum(len(own) for _, own in embedded),
        "width": embedder.width,
        "unreadable": unreadable,
    }
    if not options.json:
        say(f"{out}: {value['videos']} videos, {value['windows']} windows of {windows}, {value['width']} wide")
    return Outcome(WRONG_DATA if unreadable or found.missing else DONE, value)
