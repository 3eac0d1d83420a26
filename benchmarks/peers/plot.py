"""The picture: memory against arithmetic of a training step, arrows from each peer to its checkpointed self."""

from __future__ import annotations

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
# what a dot is called, on which side of it the name ends, and how far off it stands
SHORT_NAMES = {
    "full fine-tuning": ("full", "right", (-6, 0)),
    "LoRA (peft)": ("LoRA", "right", (-6, 0)),
    "ST-Adapter-style": ("ST-Adapter", "left", (6, 0)),
    "AIM-style": ("AIM", "left", (6, 0)),
    "EVL-style": ("EVL", "left", (6, 3)),
    "linear probe": ("linear", "right", (-3, -10)),
    "attentive probe": ("attentive", "left", (0, 7)),
}


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

    figure, axes = plt.subplots(1, len(SIZES), figsize=(14, 5.4), layout="constrained", squeeze=False)
    for axis, size in zip(axes[0], SIZES, strict=True):
        _panel(axis, results, size)
    axes[0, 0].set_ylabel("memory at the peak, GiB (simulated)")
    figure.supxlabel("arithmetic of a training step, in frozen forward passes", fontsize=10)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _panel(axis: Any, results: Results, size: Size) -> None:
    def row(method: str, way: str) -> Row | None:
        place = (size.label, size.batch_sizes[-1], FRAMES[0], method, way)
        return results.rows["simulated"].get(place)

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
        name, side, shift = SHORT_NAMES[method]
        axis.annotate(name, begin, xytext=shift, textcoords="offset points", fontsize=8, color=GREY, ha=side)
    released = row(RELEASED, PLAIN)
    if released is not None:
        axis.plot(*_place(released), "s", color=OLD, ms=7)
        place = {"textcoords": "offset points", "fontsize": 8, "color": OLD, "ha": "right"}
        axis.annotate("as released", _place(released), xytext=(-7, 2), **place)
    for method, color, name in ((OURS, OWN, "ours"), (OURS_LIGHT, LIGHT, "ours, light")):
        found = [(mode, _place(cell)) for mode in MODES if (cell := row(method, mode)) is not None]
        if not found:
            continue
        axis.plot(*zip(*(place for _, place in found), strict=True), "-D", color=color, ms=5, lw=1.5)
        for mode, place in found:
            shift, side = ((6, 2), "left") if mode != "lean" else ((-7, -4), "right")
            axis.annotate(mode, place, xytext=shift, textcoords="offset points", fontsize=8, color=color, ha=side)
        bold = {"fontsize": 9, "weight": "bold", "color": color, "ha": "center"}
        axis.annotate(name, found[0][1], xytext=(0, 8), textcoords="offset points", **bold)
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


def _place(row: Row) -> tuple[float, float]:
    return row["flops_step"] / row["frozen_flops"], row["peak_bytes"] / 2**30
