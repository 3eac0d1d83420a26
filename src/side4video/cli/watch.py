"""`side4video watch`: say what is seen in a live stream, as it comes, one JSON line a prediction."""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import note, say
from side4video.cli.main import DONE, Outcome
from side4video.cli.video_paths import check_run
from side4video.config.load import parse_overrides
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.streaming.feed import LiveFeed
    from side4video.streaming.sources import LiveFrame

USAGE = "RUN [RUN ...] SOURCE [options]"
EXAMPLES = """  side4video watch runs/mine 0 --fps 4
  side4video watch runs/mine rtsp://user:password@camera.local/stream --stride 4 --top-k 1
  side4video watch runs/mine recording.mp4 --live
  ffmpeg -i SOMETHING -f mpegts - | side4video watch runs/mine -"""

SHORT_FLAGS = {"--num-frames": "data.num_frames", "--accelerator": "train.accelerator"}
CHANGEABLE = frozenset({*SHORT_FLAGS.values(), "data.resize", "train.precision"})


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|SOURCE",
        help="run folders, then where frames come from: a camera's number or /dev/video*, an address (rtsp://, "
        "http://, tcp:// ...), a video file, or - for standard input",
    )
    parser.add_option(
        "--fps",
        type=float,
        default=2.0,
        metavar="N",
        help="frames a second to look at; a window is the run's number of frames at this rate. Default: 2.",
    )
    parser.add_option("--stride", type=int, default=1, metavar="N", help="frames between two predictions. Default: 1.")
    parser.add_option("--top-k", type=int, default=3, metavar="K", help="labels in each line. Default: 3.")
    parser.add_option(
        "--text",
        action="append",
        metavar="SENTENCE",
        help="for retrieval runs, a sentence to score the stream by; may be given several times",
    )
    parser.add_switch("--same-pixels", help="as in predict: all runs of one backbone look at the first one's crop")
    parser.add_option(
        "--max-latency",
        type=float,
        default=1.0,
        metavar="S",
        help="of a live source, frames that waited longer than about this many seconds are dropped and counted. "
        "Default: 1.",
    )
    parser.add_switch(
        "--live",
        help="take a file or standard input for live: a file is played at its own speed, and frames are dropped rather "
        "than wait. Cameras and addresses always are",
    )
    parser.add_switch(
        "--once", help="read an address to its end, every frame of it, and do not open it again: for a recording"
    )
    parser.add_switch("--wait", help="keep trying when the source is not there at the start")
    parser.add_option(
        "--give-up", type=float, metavar="S", help="end with an error after this many seconds without a frame"
    )
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Watch until the source ends.

    Raises:
        ConfigError: an option has a value that is not allowed, or there is no such run or source.
        CheckpointError: a run is damaged.
        VideoError: the source cannot be read.
        KeyboardInterrupt: with what was done until then.
    """
    if len(options.words) < 2:
        raise ConfigError("name a run folder and then a source: side4video watch runs/mine 0")
    *runs, word = options.words
    for path in runs:
        check_run(Path(path))
    _check(options)
    overrides = {"train.accelerator": "auto", **parse_overrides(options.overrides)}

    # torch comes in here: what is above is checked without it
    from side4video.build_streaming import load_scorers
    from side4video.streaming.feed import LiveFeed
    from side4video.streaming.live import StreamingClassifier
    from side4video.streaming.sources import parse_source, read_frames

    source = parse_source(word)
    live = (source.is_live and not options.once) or options.live
    loaded = load_scorers(
        [Path(path) for path in runs],
        overrides=overrides,
        sentences=options.text or (),
        same_pixels=options.same_pixels,
    )
    stream = StreamingClassifier(
        loaded.scorers, stride=options.stride, top_k=options.top_k, autocast=loaded.runtime.autocast
    )
    feed = LiveFeed(
        lambda stop: read_frames(source, fps=options.fps, stop=stop),
        name=source.shown,
        capacity=max(1, math.ceil(options.max_latency * options.fps)),
        live=live,
        paced=live and source.kind == "file",
        ends=source.kind == "pipe",
        patient=options.wait,
        give_up_seconds=options.give_up,
    )
    note(f"watching {source.shown}; Ctrl-C ends it")
    num_predictions = 0
    try:
        with feed:
            for prediction in _watch(feed, stream, name_run=len(runs) > 1):
                num_predictions += "predictions" in prediction
                if not options.json:
                    say(json.dumps(prediction, ensure_ascii=False, allow_nan=False), flush=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {_told(feed)}") from None
    note(_told(feed))
    counts = feed.counts
    shortest = min(scorer.num_frames for scorer in loaded.scorers)
    if counts.read and not num_predictions:
        note(f"no window was full: one is {shortest} frames, {shortest / options.fps:.3g} s at --fps {options.fps:g}")
    value = {"frames": counts.read, "dropped": counts.dropped, "reconnects": counts.reconnects}
    return Outcome(DONE, {**value, "predictions": num_predictions})


def _watch(feed: LiveFeed, stream: Any, *, name_run: bool) -> Any:
    """The lines to print, as they come."""
    from side4video.streaming.feed import Break

    for item in feed:
        if isinstance(item, Break):
            # a window must not hold frames from before and after
            stream.reset()
            yield {
                "event": "reconnecting",
                "reason": item.reason,
                "in_seconds": round(item.pause_seconds, 3),
                "dropped": feed.counts.dropped,
            }
            continue
        for prediction in stream.push(item.pixels_CHW):
            yield {
                **({"run": prediction.model} if name_run else {}),
                **_when(item),
                "predictions": [{"label": label, "score": score} for label, score in prediction.top],
                "dropped": feed.counts.dropped,
            }


def _when(frame: LiveFrame) -> dict[str, Any]:
    """When the last frame of the window was shown, when it came here, and how long ago that was."""
    latency = time.monotonic() - frame.arrived
    came = datetime.fromtimestamp(time.time() - latency, UTC)
    return {
        "seconds": round(frame.seconds, 3),
        "time": came.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "latency_seconds": round(latency, 3),
    }


def _told(feed: LiveFeed) -> str:
    counts = feed.counts
    again = f", opened again {counts.reconnects} times" if counts.reconnects else ""
    return f"{counts.read} frames, {counts.dropped} of them dropped{again}"


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.fps <= 1000:
        raise ConfigError(f"--fps: must be above 0 and at most 1000; got {options.fps}")
    for flag, value in (("--stride", options.stride), ("--top-k", options.top_k)):
        if value < 1:
            raise ConfigError(f"{flag}: must be at least 1; got {value}")
    if not 0 < options.max_latency < math.inf:
        raise ConfigError(f"--max-latency: must be above 0 seconds; got {options.max_latency}")
    if options.give_up is not None and not 0 < options.give_up < math.inf:
        raise ConfigError(f"--give-up: must be above 0 seconds; got {options.give_up}")
    if options.live and options.once:
        raise ConfigError("--live and --once exclude each other")
