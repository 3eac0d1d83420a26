"""The picture: memory against arithmetic of a training step, arrows from each peer to its checkpointed self."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.catalog import (
    CHECKPOINTED,
    FRAMES,
    MODES,
    OFFLOADED,
    OURS,
    OURS_LIGHT,
    PEERS,
    PLAIN,
    PROBES,
    RELEASED,
    SIZES,
    SLICES,
    Size,
)
from peers.results import Results, Row

GREY, OWN, LIGHT, OLD = "#5f6b7a", "#c2410c", "#ea9a5b", "#1d4ed8"
SHORT_NAMES = {
    "full fine-tuning": "full",
    "LoRA (peft)": "LoRA",
    "ST-Adapter-style": "ST-Adapter",
    "AIM-style": "AIM",
    "EVL-style": "EVL",
    "linear probe": "linear",
    "attentive probe": "attentive",
}
DPI = 110
# where a name may stand beside its dot, in points, the best first; and which end of it is there
SPOTS = [
    ((x * far, y * far), side)
    for far in (1.0, 2.0, 3.0)
    for (x, y), side in (
        ((7, 1), "left"), ((-7, 1), "right"), ((6, 8), "left"), ((-6, 8), "right"), ((6, -7), "left"),
        ((-6, -7), "right"), ((0, 9), "center"), ((0, -9), "center"),
    )
]  # fmt: skip
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A name that wants to stand beside a dot."""

    text: str
    place: tuple[float, float]
    color: str
    bold: bool = False
    line: tuple[tuple[float, float], ...] = ()
    """Dots of the line that begins here, which may lie below the name."""


def draw(results: Results, path: Path) -> None:
    """One panel for each image model.

    Raises:
        RuntimeError: matplotlib is not there.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise RuntimeError("the plot needs matplotlib: pip install 'side4video[bench]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(SIZES), figsize=(14, 5.4), layout="constrained", dpi=DPI, squeeze=False)
    for axis, size in zip(axes[0], SIZES, strict=True):
        _panel(axis, results, size)
    axes[0, 0].set_ylabel("memory at the peak, GiB (simulated)")
    figure.supxlabel("arithmetic of a training step, in frozen forward passes", fontsize=10)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def _panel(axis: Any, results: Results, size: Size) -> None:
    def row(method: str, way: str) -> Row | None:
        place = (size.label, size.batch_sizes[-1], FRAMES[0], method, way)
        return results.rows["simulated"].get(place)

    labels: list[Label] = []
    dots: list[tuple[float, float]] = []
    for method in (*PEERS, *PROBES):
        plain = row(method, PLAIN)
        lean = row(method, CHECKPOINTED) or row(method, SLICES)
        if plain is None or lean is None:
            continue
        begin, end = _place(plain), _place(lean)
        axis.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1, "alpha": 0.7})
        axis.plot(*begin, "o", color=GREY, ms=5)
        axis.plot(*end, "o", color=GREY, ms=5, mfc="white")
        away = row(method, OFFLOADED)
        if away is not None:
            axis.plot(*zip(end, _place(away), strict=True), ":", color=GREY, lw=1)
            axis.plot(*_place(away), "v", color=GREY, ms=5, mfc="white")
            dots.append(_place(away))
        dots += _along(begin, end)
        labels.append(Label(SHORT_NAMES[method], begin, GREY, line=tuple(_along(begin, end))))
    released = row(RELEASED, PLAIN)
    if released is not None:
        axis.plot(*_place(released), "s", color=OLD, ms=7)
        dots.append(_place(released))
        labels.append(Label("as released", _place(released), OLD))
    for method, color, name in ((OURS, OWN, "ours"), (OURS_LIGHT, LIGHT, "ours, light")):
        found = [(mode, _place(cell)) for mode in MODES if (cell := row(method, mode)) is not None]
        if not found:
            continue
        axis.plot(*zip(*(place for _, place in found), strict=True), "-D", color=color, ms=5, lw=1.5)
        for number, (mode, place) in enumerate(found):
            dots += _along(found[max(0, number - 1)][1], place)
            labels.append(Label(f"{name}: {mode}" if number == 0 else mode, place, color, bold=number == 0))
    axis.set(xscale="log", yscale="log")
    axis.set_title(f"{size.label}, batch {size.batch_sizes[-1]}, {FRAMES[0]} frames", fontsize=11)
    axis.set_xticks([1, 1.5, 2, 3, 4, 5], ["1", "1.5", "2", "3", "4", "5"], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlim(0.8, 5.6)
    axis.set_ylim(0.3, 200)
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_yticks([], minor=True)
    axis.grid(visible=True, color="#e5e7eb", lw=0.6)
    axis.set_axisbelow(True)
    axis.figure.draw_without_rendering()
    _write(axis, labels, dots)


def _write(axis: Any, labels: Sequence[Label], dots: Sequence[tuple[float, float]]) -> None:
    """Put each name on the first of its spots that covers no dot and no other name; those of ours choose first."""
    point = DPI / 72
    names: list[Box] = []
    for label in sorted(labels, key=lambda label: label.color == GREY):
        size, weight = (9, "bold") if label.bold else (8, "normal")
        width, height = 0.6 * size * len(label.text) * point, 1.1 * size * point
        x, y = axis.transData.transform(label.place)
        others = list(names)
        for dot in (dot for dot in dots if dot not in label.line):
            left, bottom = axis.transData.transform(dot)
            others.append((left - 3 * point, bottom - 3 * point, left + 3 * point, bottom + 3 * point))
        choices: list[tuple[float, Box, tuple[float, float], str]] = []
        for (right, up), side in SPOTS:
            begin = x + right * point - {"left": 0, "right": width, "center": width / 2}[side]
            middle = y + up * point
            box = (begin, middle - height / 2, begin + width, middle + height / 2)
            inside = axis.bbox.x0 <= box[0] and box[2] <= axis.bbox.x1
            # a name that is far off is as bad as one that lies across a line
            cost = sum(_shared(box, other) for other in others) + 4 * (abs(right) + abs(up)) + (0 if inside else 1e9)
            choices.append((cost, box, (right, up), side))
        _, box, shift, side = min(choices, key=lambda choice: choice[0])
        names.append(box)
        style = {"fontsize": size, "weight": weight, "color": label.color, "ha": side, "va": "center"}
        axis.annotate(label.text, label.place, xytext=shift, textcoords="offset points", **style)


def _along(begin: tuple[float, float], end: tuple[float, float], steps: int = 12) -> list[tuple[float, float]]:
    """Dots on the line between two, on logarithmic axes."""
    return [
        (begin[0] * (end[0] / begin[0]) ** (step / steps), begin[1] * (end[1] / begin[1]) ** (step / steps))
        for step in range(steps + 1)
    ]


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    along = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, along)


def _place(row: Row) -> tuple[float, float]:
    return row["flops_step"] / row["frozen_flops"], row["peak_bytes"] / 2**30
