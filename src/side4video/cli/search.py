"""`side4video search`: find moments in indexed footage by a sentence, an example picture or an example clip."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, note, say, show_table
from side4video.cli.main import DONE, WRONG_DATA, Outcome
from side4video.cli.video_paths import check_run
from side4video.config.load import parse_overrides
from side4video.errors import ConfigError
from side4video.streaming.clock import clock

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.search.moments import Moment

USAGE = "TEXT | --image FILE | --video FILE  --in LIB [options]"
EXAMPLES = """  side4video search "a dog jumps into water" --in lib
  side4video search --image dog.jpg --in lib --path 'holidays/*' --json
  side4video search --video beach.mp4 --start 1:05 --end 1:12 --in lib --save-clips found/"""

SHORT_FLAGS = {"--accelerator": "train.accelerator"}
CHANGEABLE = frozenset({*SHORT_FLAGS.values(), "train.precision"})
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)")


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("text", nargs="*", metavar="TEXT", help="a sentence that says what happens")
    parser.add_option("--in", required=True, metavar="LIB", help="the library that `side4video index` made")
    parser.add_option("--image", metavar="FILE", help="look for what looks like this picture")
    parser.add_option("--video", metavar="FILE", help="look for what looks like this video")
    parser.add_option("--start", metavar="TIME", help="of --video, the part from here: seconds, m:ss or h:mm:ss")
    parser.add_option("--end", metavar="TIME", help="of --video, the part up to here")
    parser.add_option("--path", metavar="GLOB", help="only in videos whose path, its end or a folder of it fits")
    parser.add_option("--after", metavar="TIME", help="only what is shown after this time of its video")
    parser.add_option("--before", metavar="TIME", help="only what is shown before this time of its video")
    parser.add_option("--top", type=int, default=10, metavar="N", help="moments to show. Default: 10.")
    parser.add_option("--save-clips", metavar="DIR", help="cut the moments out, into this folder (H.264, mp4)")
    parser.add_option("--run", metavar="RUN", help="the run that indexed the library, when it has moved")
    parser.add_switch("--wait", help="wait while another process uses the library, instead of saying so and ending")
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Find moments and show them.

    Raises:
        ConfigError: an option has a value that is not allowed.
        CheckpointError: the run is gone or damaged.
        StoreError: no library there, one of another layout or model, or one that is in use.
        InputError: an example that cannot be read.
    """
    overrides = {"train.accelerator": "auto", **parse_overrides(options.overrides)}
    text = " ".join(options.text)
    given = [name for name in ("image", "video") if getattr(options, name) is not None]
    if len(given) + bool(options.text) != 1:
        what = " and ".join([*(["a text"] if options.text else []), *(f"--{name}" for name in given)]) or "nothing"
        raise ConfigError(f"say what to look for: a text, --image FILE or --video FILE, one of them; got {what}")
    if options.text and not text.strip():
        raise ConfigError(f"the text to search for must have a word in it; got {text!r}")
    if options.top < 1:
        raise ConfigError(f"--top: must be at least 1; got {options.top}")
    times = {name: _seconds(f"--{name}", getattr(options, name)) for name in ("start", "end", "after", "before")}
    for first, last in (("start", "end"), ("after", "before")):
        begin, end = times[first], times[last]
        if begin is not None and end is not None and begin >= end:
            raise ConfigError(f"--{first}: must be before --{last}; got {begin:g} and {end:g} seconds")
    if options.video is None and (times["start"] is not None or times["end"] is not None):
        raise ConfigError("--start and --end are a part of --video, which is not given; --after and --before filter")
    if options.run is not None:
        check_run(Path(options.run))

    # torch comes in here: everything above is checked without it
    from side4video.cli.search_model import load_embedder, make_text_query, run_settings
    from side4video.search.library import open_library
    from side4video.search.query import Where, find_moments, image_query, video_query
    from side4video.search.run_identity import run_identity

    where = Where(options.path, times["after"], times["before"])
    with open_library(getattr(options, "in"), wait_seconds=math.inf if options.wait else 0.0) as library:
        folder = Path(options.run) if options.run is not None else library.run
        _check_run(folder, library.where, given=options.run is not None)
        library.check_model(run_identity(folder), folder)
        settings = run_settings(folder, overrides)
        embedder = load_embedder(folder, settings, library.identity.windows)
        if options.image is not None:
            query = image_query(embedder, Path(options.image))
        elif options.video is not None:
            part = {"start_seconds": times["start"], "end_seconds": times["end"]}
            query = video_query(embedder, Path(options.video), **part)
        else:
            query = make_text_query(embedder, settings, text)
        moments = find_moments(library, query, top=options.top, where=where)
    clips, num_failed = [None] * len(moments), 0
    if options.save_clips is not None:
        clips, num_failed = _save(moments, Path(options.save_clips))
    entries = [_as_json(moment, clip) for moment, clip in zip(moments, clips, strict=True)]
    if not options.json:
        _show(moments, clips)
    return Outcome(WRONG_DATA if num_failed else DONE, entries)


def _seconds(flag: str, value: str | None) -> float | None:
    """A time as seconds, m:ss or h:mm:ss.

    Raises:
        ConfigError: it is none of them.
    """
    if value is None:
        return None
    match = _TIME.fullmatch(value.strip())
    if match is None:
        raise ConfigError(f"{flag}: must be a time in seconds, as m:ss or as h:mm:ss; got {value!r}")
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)


def _check_run(folder: Path, library: str, *, given: bool) -> None:
    try:
        check_run(folder)
    except ConfigError as error:
        if given:
            raise
        raise ConfigError(
            f"{library} was indexed with a run that is not there any more ({error}): name it with --run"
        ) from None


def _save(moments: Sequence[Moment], folder: Path) -> tuple[list[str | None], int]:
    """Cut the moments out; one that cannot be is named, and the others are made."""
    from side4video.errors import InputError
    from side4video.search.cut import clip_name, cut_clip

    folder.mkdir(parents=True, exist_ok=True)
    clips: list[str | None] = []
    for rank, moment in enumerate(moments, 1):
        source = Path(moment.path)
        target = folder / clip_name(rank, source, moment.start_seconds)
        try:
            cut_clip(source, moment.start_seconds, moment.end_seconds, target)
        except InputError as error:
            fail(str(error))
            clips.append(None)
            continue
        clips.append(str(target))
    return clips, sum(clip is None for clip in clips)


def _as_json(moment: Moment, clip: str | None) -> dict[str, Any]:
    return {
        "path": moment.path,
        "start": round(moment.start_seconds, 3),
        "end": round(moment.end_seconds, 3),
        "score": moment.score,
        "windows": moment.num_windows,
        **({} if clip is None else {"clip": clip}),
    }


def _show(moments: Sequence[Moment], clips: Sequence[str | None]) -> None:
    from rich.table import Table

    if not moments:
        note("nothing found: no window of the library meets the filters")
        return
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("moment", justify="right", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("video", overflow="fold")
    for rank, moment in enumerate(moments, 1):
        span = f"{clock(moment.start_seconds)} - {clock(moment.end_seconds)}"
        table.add_row(str(rank), span, f"{moment.score:.3f}", _near(moment.path))
    show_table(table)
    if any(clips):
        say(f"clips: {', '.join(clip for clip in clips if clip is not None)}")


def _near(path: str) -> str:
    """A path as one would type it here."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
