"""Timelines as files: CSV and JSON for programs, SRT for players, HTML for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side4video.errors import ConfigError
from side4video.streaming.clock import subtitle_clock
from side4video.streaming.page import render_page
from side4video.streaming.timeline import Timeline
from side4video.training.files import write_bytes, write_json

SUFFIXES = (".csv", ".json", ".srt", ".html")
_SCORE_DIGITS = 6


def check_outputs(paths: Sequence[Path], *, num_timelines: int) -> None:
    """Find out before the work whether these files can be written.

    Raises:
        ConfigError: another suffix, a folder that is not there, or subtitles of more than one timeline.
    """
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"--out: must end in {', '.join(SUFFIXES)}; got '{path}'")
        if not path.parent.is_dir():
            raise ConfigError(f"--out: no such folder: '{path.parent}'")
        if path.suffix.lower() == ".srt" and num_timelines != 1:
            raise ConfigError(f"--out: subtitles are of one video and one run; got {num_timelines} timelines")


def write_timelines(path: Path, timelines: Sequence[Timeline]) -> None:
    """Write the form that the suffix asks for; the file is there complete or not at all.

    Raises:
        ConfigError: another suffix.
        OSError: the file cannot be written; what was there before still is.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_json(path, [as_json(line, with_scores=True) for line in timelines])
    elif suffix == ".csv":
        write_bytes(path, as_csv(timelines).encode())
    elif suffix == ".srt":
        write_bytes(path, "".join(as_srt(line) for line in timelines).encode())
    elif suffix == ".html":
        write_bytes(path, render_page(timelines).encode())
    else:
        raise ConfigError(f"--out: must end in {', '.join(SUFFIXES)}; got '{path}'")


def as_json(line: Timeline, *, with_scores: bool = False) -> dict[str, Any]:
    """Plain JSON values; `with_scores` also the scores of every window and every frame."""
    value: dict[str, Any] = {
        "path": str(line.path),
        "run": line.model,
        "seconds": line.duration_seconds,
        "fps": line.fps,
        "window_seconds": line.window_seconds,
        "frames_decoded": len(line.frame_times_seconds),
        "segments": [
            {"start": part.start_seconds, "end": part.end_seconds, "label": part.label, "score": part.score}
            for part in line.segments
        ],
    }
    if with_scores:
        value |= {
            "labels": list(line.labels),
            "thresholds": _rounded(line.threshold_K.tolist()),
            "windows": [
                {"start": start, "scores": _rounded(scores)}
                for start, scores in zip(line.window_starts_seconds, line.scores_WK.tolist(), strict=True)
            ],
            "frames": [
                {"time": time, "scores": _rounded(scores)}
                for time, scores in zip(line.frame_times_seconds, line.scores_FK.tolist(), strict=True)
            ],
        }
    return value


def as_csv(timelines: Sequence[Timeline]) -> str:
    """One line a segment."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "run", "start", "end", "label", "score"])
    for line in timelines:
        for part in line.segments:
            times = (f"{part.start_seconds:.3f}", f"{part.end_seconds:.3f}")
            writer.writerow([line.path, line.model, *times, part.label, round(part.score, _SCORE_DIGITS)])
    return text.getvalue()


def as_srt(line: Timeline) -> str:
    """Subtitles: each segment's label while it lasts."""
    blocks: list[str] = []
    for number, part in enumerate(line.segments, start=1):
        score = f"{100 * part.score:.0f} %" if line.exclusive else f"{part.score:.3g}"
        # a blank line would end the subtitle
        label = " ".join(part.label.split())
        times = f"{subtitle_clock(part.start_seconds)} --> {subtitle_clock(part.end_seconds)}"
        blocks.append(f"{number}\n{times}\n{label} ({score})\n\n")
    return "".join(blocks)


def _rounded(scores: Sequence[float]) -> list[float]:
    return [round(score, _SCORE_DIGITS) for score in scores]
