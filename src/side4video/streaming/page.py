"""Timelines as a page: one HTML file that needs no other file and asks no server for anything.

What is drawn is made here, so that the page shows everything without its script; the script adds the cursor that the
mouse, a finger or the arrow keys move, and the scores at its place.

Shapes: F, frames, thinned to what a screen can show; K, labels.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from side4video.streaming.clock import clock
from side4video.streaming.timeline import Timeline

MAX_POINTS = 1500
MAX_LANES = 8
NUM_COLOURS = 8
TOP = 5
_TICK_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


@dataclass(frozen=True)
class _Lane:
    """One label's row: `area` is the outline of its scores in a box of 1000 by 100, `level` its threshold there."""

    label: str
    colour: int
    area: str
    level: float
    shown: str
    spans: list[dict[str, Any]]


def render_page(timelines: Sequence[Timeline]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("side4video.streaming"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    lines = [_section(line) for line in timelines]
    paths = list(dict.fromkeys(str(line.path) for line in timelines))
    title = f"Timeline of {timelines[0].path.name}" if len(paths) == 1 else f"Timelines of {len(paths)} videos"
    return environment.get_template("timeline.html.j2").render(title=title, lines=lines)


def _section(line: Timeline) -> dict[str, Any]:
    seconds = max(line.duration_seconds, 1e-9)
    scores_FK, times = _thinned(line)
    # shares have a scale of their own; similarities are drawn between the lowest and the highest of the video
    low, high = (0.0, 1.0) if line.exclusive else (float(scores_FK.min()), float(scores_FK.max()))
    scale = max(high - low, 1e-9)
    order = _order(line)
    colours = {label: place % NUM_COLOURS for place, label in enumerate(order)}
    segments = [
        {
            "label": part.label,
            "colour": colours[line.labels.index(part.label)],
            "start": part.start_seconds,
            "left": 100 * part.start_seconds / seconds,
            "width": 100 * (part.end_seconds - part.start_seconds) / seconds,
            "from": clock(part.start_seconds),
            "to": clock(part.end_seconds),
            "score": _shown(part.score, exclusive=line.exclusive),
        }
        for part in line.segments
    ]
    lanes = [
        _Lane(
            label=line.labels[label],
            colour=colours[label],
            area=_area(scores_FK[:, label], times, seconds, low, scale),
            level=100 - 100 * min(1.0, max(0.0, (float(line.threshold_K[label]) - low) / scale)),
            shown=_seen(line, line.labels[label]),
            spans=[part for part in segments if part["label"] == line.labels[label]],
        )
        for label in order[:MAX_LANES]
    ]
    step = next((step for step in _TICK_SECONDS if seconds / step <= 8), 4 * _TICK_SECONDS[-1])
    best = scores_FK.topk(min(TOP, scores_FK.shape[1]), dim=1)
    return {
        "path": str(line.path),
        "name": line.path.name or str(line.path),
        "run": line.model,
        "facts": f"{clock(seconds)} long, {line.fps:.3g} frames a second in windows of {line.window_seconds:.3g} s",
        "exclusive": line.exclusive,
        "lanes": lanes,
        "hidden": len(line.labels) - len(lanes),
        "segments": segments,
        "thumbnails": [
            {"src": f"data:image/jpeg;base64,{base64.b64encode(p.jpeg).decode()}", "time": clock(p.seconds)}
            for p in line.thumbnails
        ],
        "ticks": [{"left": 100 * n * step / seconds, "text": _tick(n * step)} for n in range(int(seconds / step) + 1)],
        "data": {
            "seconds": seconds,
            "times": [round(time, 3) for time in times],
            "labels": list(line.labels),
            "colours": {str(label): colours[label] for label in order[:MAX_LANES]},
            "best": best.indices.tolist(),
            "scores": [[round(score, 4) for score in row] for row in best.values.tolist()],
            "low": low,
            "scale": scale,
            "exclusive": line.exclusive,
            "pictures": [round(p.seconds, 3) for p in line.thumbnails],
        },
    }


def _thinned(line: Timeline) -> tuple[Tensor, list[float]]:
    """Scores and start times of at most `MAX_POINTS` stretches of equally many frames, the mean of each."""
    num_frames = len(line.frame_times_seconds)
    step = -(-num_frames // MAX_POINTS)
    parts = line.scores_FK.split(step)
    return torch.stack([part.mean(0) for part in parts]), list(line.frame_times_seconds[::step])


def _order(line: Timeline) -> list[int]:
    """Labels by how long they are seen, then by their highest score; sentences in the order they were given."""
    if not line.exclusive:
        return list(range(len(line.labels)))
    seen = dict.fromkeys(line.labels, 0.0)
    for part in line.segments:
        seen[part.label] += part.end_seconds - part.start_seconds
    highest = line.scores_FK.amax(0).tolist()
    return sorted(range(len(line.labels)), key=lambda k: (-seen[line.labels[k]], -highest[k], k))


def _area(scores_F: Tensor, times: Sequence[float], seconds: float, low: float, scale: float) -> str:
    """A path that steps from frame to frame, closed along the bottom."""
    ends = [*times[1:], seconds]
    parts = ["M0 100"]
    for start, end, score in zip(times, ends, scores_F.tolist(), strict=True):
        height = 100 - 100 * min(1.0, max(0.0, (score - low) / scale))
        parts.append(f"L{1000 * start / seconds:.1f} {height:.1f}H{1000 * end / seconds:.1f}")
    return "".join([*parts, "L1000 100Z"])


def _seen(line: Timeline, label: str) -> str:
    """How long a label is seen, or nothing."""
    seconds = sum(part.end_seconds - part.start_seconds for part in line.segments if part.label == label)
    return clock(seconds) if seconds else ""


def _shown(score: float, *, exclusive: bool) -> str:
    return f"{100 * score:.0f} %" if exclusive else f"{score:.3g}"


def _tick(seconds: float) -> str:
    return clock(seconds).removesuffix(".0") if seconds == int(seconds) else clock(seconds)
