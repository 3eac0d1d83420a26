"""Charts of the HTML pages as inline SVG: lines, points and the confusion matrix. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 18, 14, 50
_LABELLED_CLASSES = 40


@dataclass(frozen=True)
class Line:
    """One curve: its name and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[Line], *, x_name: str, percent: bool = False) -> Markup:
    """Curves over a common axis. `percent`: y is a share in 0..1 and is written as per cent.

    Raises:
        ValueError: a curve without points, or a value that is not finite.
    """
    if any(not line.points for line in lines) or not lines:
        raise ValueError("a line chart needs at least one point on each line")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not all(math.isfinite(value) for value in [*xs, *ys]):
        raise ValueError("a line chart needs finite values")
    x_ticks = _ticks(min(xs), max(xs), 6, whole=True)
    y_ticks = _ticks(0.0 if percent else min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(*xs, min(xs) + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if len(set(xs)) > 1 else 0.5
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts: list[str] = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        text = f"{100 * tick:.0f} %" if percent else f"{tick:.4g}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = place(tick, y_low)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 28}" text-anchor="middle">{tick:.6g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    for number, line in enumerate(lines):
        placed = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        last_x, last_y = placed[-1]
        parts.append(f'<polyline class="curve c{number % 4}" points="{path}"/>')
        parts.append(f'<circle class="dot c{number % 4}" cx="{last_x:.1f}" cy="{last_y:.1f}" r="3.5"/>')
    named = escape(", ".join(line.name for line in lines))
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{named}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


@dataclass(frozen=True)
class Dot:
    """One point of a scatter chart: what is written beside it, its full name, and where it lies."""

    label: str
    name: str
    x: float
    y: float


def scatter_chart(dots: Sequence[Dot], *, x_name: str, y_name: str) -> Markup:
    """Labelled points; y is a share in 0..1 and is written as per cent.

    Raises:
        ValueError: no point, or a value that is not finite.
    """
    if not dots or not all(math.isfinite(value) for dot in dots for value in (dot.x, dot.y)):
        raise ValueError("a scatter chart needs at least one point, and finite values")
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    x_ticks, y_ticks = _ticks(min(xs), max(xs), 6), _ticks(min(ys), max(ys), 5)
    left, bottom, above = _LEFT + 14, _HEIGHT - _BOTTOM, _TOP + 8

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]), (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + across * (_WIDTH - left - _RIGHT), bottom - up * (bottom - above)

    parts: list[str] = []
    for tick in y_ticks:
        _, y = place(x_ticks[0], tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * tick:.4g} %</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 28}" text-anchor="middle">{tick:.6g}</text>')
    middle = (left + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    turned = f'transform="rotate(-90 14 {(bottom + _TOP) / 2:.0f})"'
    parts.append(
        f'<text class="tick" x="14" y="{(bottom + _TOP) / 2:.0f}" text-anchor="middle" {turned}>{escape(y_name)}</text>'
    )
    # points that lie beside each other share one label, so that none is written over another
    placed = sorted(((*place(dot.x, dot.y), dot) for dot in dots), key=lambda item: (round(item[1] / 8), item[0]))
    clusters: list[list[tuple[float, float, Dot]]] = []
    for item in placed:
        last = clusters[-1] if clusters else []
        width = 8 * sum(len(dot.label) + 2 for _, _, dot in [*last, item])
        near = bool(last) and abs(item[1] - last[-1][1]) < 10 and item[0] - last[-1][0] < max(16, width / 2)
        last.append(item) if near else clusters.append([item])
    for cluster in clusters:
        names = escape("; ".join(f"{dot.name}: {100 * dot.y:.1f} %" for _, _, dot in cluster))
        for x, y, _ in cluster:
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{names}</title></circle>')
        middle, top = sum(x for x, _, _ in cluster) / len(cluster), min(y for _, y, _ in cluster)
        labels = ", ".join(dot.label for _, _, dot in cluster)
        parts.append(f'<text class="label" x="{middle:.1f}" y="{top - 8:.1f}" text-anchor="middle">{labels}</text>')
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_name)} against {escape(x_name)}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def confusion_chart(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Rows are the true classes, columns what they were called; a cell's strength is its share of the row."""
    count = len(names)
    labelled = count <= _LABELLED_CLASSES
    cell = 26 if count <= 16 else 20 if labelled else max(1.0, 640 / count)
    longest = max((len(name) for name in names), default=0)
    margin = min(220.0, 14 + 6.6 * longest) if labelled else 8.0
    side = margin + cell * count
    parts: list[str] = []
    for row, (values, name) in enumerate(zip(confusion, names, strict=True)):
        total = sum(values)
        y = margin + row * cell
        if labelled:
            parts.append(_label(name, margin - 6, y + cell / 2 + 4, "end", ""))
            x = margin + row * cell + cell / 2 + 4
            parts.append(_label(name, x, margin - 6, "start", f' transform="rotate(-90 {x:.1f} {margin - 6:.1f})"'))
        for column, value in enumerate(values):
            if value == 0:
                continue
            x, share = margin + column * cell, value / total
            kind = "hit" if row == column else "miss"
            strong = " strong" if share > 0.55 else ""
            title = (
                f"{name} called {names[column]}: {value} of {total}" if row != column else f"{name}: {value} of {total}"
            )
            parts.append(
                f'<g><title>{escape(title)}</title><rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{cell:.2f}" '
                f'height="{cell:.2f}" fill-opacity="{0.12 + 0.88 * share:.3f}"/>'
                + (
                    f'<text class="cell{strong}" x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" '
                    f'text-anchor="middle">{value}</text>'
                    if labelled
                    else ""
                )
                + "</g>"
            )
    frame = f'<rect class="frame" x="{margin}" y="{margin}" width="{cell * count:.2f}" height="{cell * count:.2f}"/>'
    # never larger than its natural size, and scrolled rather than shrunk below what can be read
    style = (
        f"width:100%;max-width:{side + 4:.0f}px;min-width:{0.72 * side:.0f}px"
        if labelled
        else "width:100%;max-width:656px"
    )
    head = f'<svg viewBox="0 0 {side + 4:.1f} {side + 4:.1f}" style="{style}" role="img" aria-label="confusion matrix">'
    return Markup(f"{head}{frame}{''.join(parts)}</svg>")


def _label(name: str, x: float, y: float, anchor: str, transform: str) -> str:
    shown = name if len(name) <= 32 else f"{name[:31]}…"
    return (
        f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{transform}>'
        f"<title>{escape(name)}</title>{escape(shown)}</text>"
    )


def _ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round numbers that cover low..high, at least two of them."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step), math.ceil(high / step)
    if last <= first:
        last = first + 1
    return [round(index * step, 12) for index in range(first, last + 1)]
