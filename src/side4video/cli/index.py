"""`side4video index`: make footage searchable; run again, it embeds only what is new or has changed."""

from __future__ import annotations

import argparse
import glob
import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, note, say
from side4video.cli.main import BAD_INPUT, DONE, WRONG_DATA, Outcome
from side4video.cli.video_paths import Found, find_videos
from side4video.config.load import parse_overrides
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.search.indexing import IndexReport, Progress
    from side4video.search.library import Library

USAGE = "RUN FOOTAGE [FOOTAGE ...] --into LIB [options]"
EXAMPLES = """  side4video index runs/mine footage/ --into lib
  side4video index runs/mine footage/ 'more/**/*.mkv' --into lib --prune
  side4video index runs/mine footage/ --into http://localhost:6333"""

SHORT_FLAGS = {"--accelerator": "train.accelerator"}
CHANGEABLE = frozenset({*SHORT_FLAGS.values(), "train.precision"})
_LINE_SECONDS = 30.0  # between two lines about the progress where there is no terminal


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|FOOTAGE",
        help="the run folder first, then video files, folders (looked through to the bottom) and globs",
    )
    parser.add_option(
        "--into",
        required=True,
        metavar="LIB",
        help="the library: a folder, made when it is not there, or the address of a Qdrant server (http://HOST:PORT, "
        "with #NAME for a collection of its own)",
    )
    parser.add_option("--frames", type=int, metavar="T", help="frames of a window. Default: the run's data.num_frames.")
    parser.add_option("--stride", type=int, metavar="N", help="frames from window to window. Default: half a window.")
    parser.add_option(
        "--fps",
        type=float,
        metavar="RATE",
        help="frames a second that are looked at; a video shorter than a window is looked at closer. Default: 2.",
    )
    parser.add_switch("--prune", help="take out the videos below FOOTAGE that are not on the disk any more")
    parser.add_switch("--wait", help="wait while another process uses the library, instead of saying so and ending")
    parser.add_option(
        "--store",
        metavar="KIND",
        help="of a new library: qdrant-edge (an embedded database) or flat (plain files, always exact). "
        "Default: qdrant-edge.",
    )
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Bring the library up to date.

    Raises:
        ConfigError: an option has a value that is not allowed, or the first word is no run.
        CheckpointError: the run is damaged, or no retrieval run.
        StoreError: the library is in use, damaged, of another layout, or belongs to another model.
    """
    overrides = {"train.accelerator": "auto", **parse_overrides(options.overrides)}
    if options.store not in (None, "qdrant-edge", "flat"):
        raise ConfigError(f"--store: must be qdrant-edge or flat; got {options.store!r}")
    found = find_videos(options.words)
    if len(found.runs) > 1:
        raise ConfigError(f"a library belongs to one run; got {len(found.runs)}: {', '.join(map(str, found.runs))}")
    for word, reason in found.missing:
        fail(f"{word}: {reason}")
    if not found.videos:
        return Outcome(BAD_INPUT)
    (folder,) = found.runs

    # torch comes in here: everything above is checked without it
    from side4video.cli.search_model import load_embedder, run_settings
    from side4video.search.embedding import WindowSettings
    from side4video.search.indexing import index_footage
    from side4video.search.library import LibraryIdentity, check_kept, make_library
    from side4video.search.run_identity import run_identity

    settings = run_settings(folder, overrides)
    windows = WindowSettings.for_model(
        settings.data.num_frames, frames=options.frames, stride=options.stride, fps=options.fps
    )
    identity = LibraryIdentity(run_identity(folder), windows)
    check_kept(options.into, identity.model, folder)
    begun = time.monotonic()
    embedder = load_embedder(folder, settings, windows)
    with make_library(
        options.into,
        identity,
        run=folder,
        embed_dim=embedder.width,
        kind=options.store,
        wait_seconds=math.inf if options.wait else 0.0,
    ) as library:
        _check_windows(library, options)
        embedder.settings = library.identity.windows
        with _progress(library, found.videos) as on_progress:
            try:
                report = index_footage(
                    library,
                    embedder,
                    found.videos,
                    prune=options.prune,
                    places=_places(options.words, found),
                    on_progress=on_progress,
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    "stopped; finished videos are kept: the same command goes on from there"
                ) from None
        value = _as_json(report, library, time.monotonic() - begun)
    for path, reason in report.unreadable:
        fail(f"{path}: {reason}")
    if not options.json:
        _show(value, options.into, report)
    return Outcome(WRONG_DATA if report.unreadable or found.missing else DONE, value)


def _check_windows(library: Library, options: argparse.Namespace) -> None:
    """A library keeps the windows that it was made with: others could not be compared with them.

    Raises:
        ConfigError: an option asks for others.
    """
    kept = library.identity.windows
    for flag, wanted, has in (
        ("--frames", options.frames, kept.num_frames),
        ("--stride", options.stride, kept.stride),
        ("--fps", options.fps, kept.fps),
    ):
        if wanted is not None and wanted != has:
            raise ConfigError(
                f"{flag}: {library.where} has windows of {kept}; got {wanted:g}. Leave the option away, or index into "
                "another folder"
            )


def _places(words: Sequence[str], found: Found) -> list[Path]:
    """What `--prune` may look at: every word that led to videos. An empty folder may be a disk that is not there."""
    missing = {word for word, _ in found.missing}
    places: list[Path] = []
    for word in words:
        path = Path(word)
        if word in missing or path in found.runs:
            continue
        while glob.has_magic(str(path)) and not path.exists():
            path = path.parent
        places.append(path)
    return places


@contextmanager
def _progress(library: Library, videos: Sequence[Path]) -> Generator[Progress]:
    """A bar with the time left on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from side4video.search.indexing import pending_bytes

    pending = pending_bytes(library, videos)
    total = sum(pending.values())
    places = {path: number for number, path in enumerate(videos, 1)}
    begun = said = time.monotonic()
    done, current = 0.0, 0.0
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("indexing", total=max(1, total))

    def tell(path: Path, share: float) -> None:
        nonlocal done, current, said
        current = share * pending.get(path, 0)
        bar.update(task, completed=done + current, description=f"indexing {places[path]} of {len(videos)} {path.name}")
        if share >= 1:
            done, current = done + current, 0.0
        now = time.monotonic()
        if bar.disable and now - said > _LINE_SECONDS and done + current:
            left = (now - begun) * (total - done - current) / (done + current)
            note(f"{places[path]} of {len(videos)} videos, {(done + current) / total:.0%}, about {duration(left)} left")
            said = now

    with bar:
        yield tell


def duration(seconds: float) -> str:
    """A time to wait, in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def _as_json(report: IndexReport, library: Library, seconds: float) -> dict[str, Any]:
    return {
        "embedded": len(report.embedded),
        "copied": len(report.copied),
        "unchanged": len(report.unchanged),
        "removed": len(report.removed),
        "missing": len(report.missing),
        "unreadable": [{"path": path, "reason": reason} for path, reason in report.unreadable],
        "videos": len(library.entries),
        "windows": sum(entry.num_windows for entry in library.entries.values()),
        "seconds": round(seconds, 3),
    }


def _show(value: dict[str, Any], into: str, report: IndexReport) -> None:
    did = [
        f"{value[key]} {words}"
        for key, words in (
            ("embedded", "embedded"),
            ("copied", "known by their content"),
            ("unchanged", "unchanged"),
            ("removed", "removed"),
        )
        if value[key]
    ]
    say(f"{into}: {value['videos']} videos, {value['windows']} windows ({', '.join(did) or 'nothing done'})")
    if report.missing:
        say(f"not on the disk any more: {len(report.missing)} of them; --prune takes those below the named folders out")
    if report.unreadable:
        note(f"{len(report.unreadable)} videos could not be read")
