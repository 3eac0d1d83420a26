"""The report page of an evaluation: one HTML file that needs no other file and asks no server for anything."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from side4video.cli.charts import Line, confusion_chart, line_chart
from side4video.data.decode import open_video
from side4video.errors import InputError

NUM_HARDEST = 12
NUM_CONFUSED = 15
_THUMBNAIL_HEIGHT = 168
_THUMBNAIL_FRAMES = 4


@dataclass(frozen=True)
class ScoredClip:
    """One clip of the page: what it is, what it was called, and the scores of both (0..1)."""

    path: str
    label: str
    predicted: str
    label_score: float
    predicted_score: float
    thumbnails: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curves:
    """One chart of training curves. `percent`: values are shares in 0..1."""

    title: str
    lines: Sequence[Line]
    percent: bool = False


@dataclass(frozen=True)
class ReportData:
    """Everything on the page. `confusion[i][j]` counts clips of class i that were called j; shares are in 0..1."""

    title: str
    subtitle: str
    top1: float
    top5: float
    mean_class: float
    class_names: Sequence[str]
    confusion: Sequence[Sequence[int]]
    hardest: Sequence[ScoredClip]
    broken: Sequence[tuple[str, str]]
    curves: Sequence[Curves] = ()
    warnings: Sequence[str] = ()
    settings: Sequence[tuple[str, str]] = ()
    footer: str = ""
    extra_tiles: Sequence[tuple[str, str]] = field(default=())


@dataclass(frozen=True)
class _Chart:
    title: str
    svg: Markup
    legend: list[tuple[str, str]]


def render_report(data: ReportData) -> str:
    """The page as HTML."""
    totals = [sum(row) for row in data.confusion]
    classes = [
        {
            "name": name,
            "percent": 100 * row[index] / total,
            "text": f"{100 * row[index] / total:.0f} % of {total}",
        }
        for index, (name, row, total) in enumerate(zip(data.class_names, data.confusion, totals, strict=True))
        if total
    ]
    classes.sort(key=lambda row: (row["percent"], row["name"]))
    tiles = [
        ("top-1", _percent(data.top1)),
        ("top-5", _percent(data.top5)),
        ("mean over classes", _percent(data.mean_class)),
        ("clips", str(sum(totals))),
        *([("could not be read", str(len(data.broken)))] if data.broken else []),
        *data.extra_tiles,
    ]
    page = {
        "title": data.title,
        "subtitle": data.subtitle,
        "tiles": [{"name": name, "value": value} for name, value in tiles],
        "warnings": data.warnings,
        "charts": [_chart(curves) for curves in data.curves],
        "classes": classes,
        "untested": [name for name, total in zip(data.class_names, totals, strict=True) if not total],
        "confusion": confusion_chart(data.confusion, data.class_names),
        "confused": _most_confused(data, totals),
        "hardest": [
            {
                "path": clip.path,
                "label": clip.label,
                "predicted": clip.predicted,
                "label_score": _percent(clip.label_score),
                "predicted_score": _percent(clip.predicted_score),
                "thumbnails": clip.thumbnails,
            }
            for clip in data.hardest
        ],
        "broken": data.broken,
        "settings": data.settings,
        "footer": data.footer,
    }
    environment = Environment(
        loader=PackageLoader("side4video.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(page=page)


def thumbnails(
    path: str | Path,
    *,
    frame_pattern: str | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> tuple[str, ...]:
    """A few frames of a video as `data:` addresses of small JPEG pictures; none when it cannot be read."""
    from PIL import Image

    try:
        with open_video(path, frame_pattern=frame_pattern) as reader:
            shown = reader.frame_range(start_seconds, end_seconds)
            # the middle of each of the equal parts
            indices = [
                shown[(2 * part + 1) * len(shown) // (2 * _THUMBNAIL_FRAMES)] for part in range(_THUMBNAIL_FRAMES)
            ]
            frames_THWC = reader.read(indices).permute(0, 2, 3, 1).numpy()
    except (InputError, OSError):
        return ()
    addresses: list[str] = []
    for frame_HWC in frames_THWC:
        image = Image.fromarray(frame_HWC)
        width = max(1, round(image.width * _THUMBNAIL_HEIGHT / image.height))
        buffer = io.BytesIO()
        image.resize((width, _THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=72)
        addresses.append(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return tuple(addresses)


def _chart(curves: Curves) -> _Chart:
    legend = [
        (line.name, _percent(line.points[-1][1]) if curves.percent else f"{line.points[-1][1]:.3g}")
        for line in curves.lines
    ]
    return _Chart(curves.title, line_chart(curves.lines, x_name="epoch", percent=curves.percent), legend)


def _most_confused(data: ReportData, totals: Sequence[int]) -> list[dict[str, str | int]]:
    pairs = [
        (count, row, column)
        for row, counts in enumerate(data.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    names = data.class_names
    return [
        {"true": names[row], "called": names[column], "count": count, "total": totals[row]}
        for count, row, column in pairs[:NUM_CONFUSED]
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
