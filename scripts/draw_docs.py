"""Draws the pictures that explain the method and where the memory goes: SVG files in `docs/images/`.

    python scripts/draw_docs.py

`memory.svg` is drawn from `benchmarks/results/memory_ladder.json`; a test compares all files with what this script
would write.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
LADDER = ROOT / "benchmarks" / "results" / "memory_ladder.json"

INK, FAINT, PAPER, LINE = "#23262d", "#6b7280", "#ffffff", "#9aa3b2"
FROZEN, FROZEN_EDGE = "#e8edf5", "#8fa3c4"
TRAINED, TRAINED_EDGE = "#ffe9d6", "#e07b2c"
TAP = "#4a6fb3"
MODES = ("fast", "balanced", "lean", "smallest")
# in words -> colour, and the causes of the result file that are summed
CAUSES = {
    "frozen weights": ("#8fa3c4", ("frozen weights",)),
    "frozen tokens kept": ("#4a6fb3", ("saved tokens",)),
    "kept in the side network": ("#e07b2c", ("saved side",)),
    "side weights, gradients, optimiser": ("#f3c08f", ("side weights", "gradients", "optimiser")),
    "pixels": ("#c9ced8", ("pixels",)),
    "working memory": ("#e7e9ee", ("working",)),
}


class Sheet:
    """An SVG that grows; y points down, and everything stands on white paper so that dark pages can show it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="system-ui, Segoe UI, Roboto, Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker>'
            '<marker id="tap" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{TAP}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>',
        ]

    def box(self, x: float, y: float, width: float, height: float, *, fill: str, edge: str, radius: float = 7) -> None:
        """A rounded rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{edge}" stroke-width="1.4"/>'
        )

    def text(
        self, x: float, y: float, words: str, *, size: float = 14, colour: str = INK, anchor: str = "middle",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """One line of text; y is its base line."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def arrow(self, *points: tuple[float, float], tap: bool = False, dashed: bool = False) -> None:
        """A line through the points with a tip at its end."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        colour, tip = (TAP, "tap") if tap else (LINE, "tip")
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash} marker-end="url(#{tip})"/>'
        )

    def frame(self, x: float, y: float, size: float, place: float) -> None:
        """A small picture in which a ball has moved."""
        self.box(x, y, size, size, fill="#f4f6fa", edge=LINE, radius=3)
        self.parts.append(
            f'<circle cx="{x + size * place:g}" cy="{y + size * 0.55:g}" r="{size * 0.13:g}" fill="{TRAINED_EDGE}"/>'
        )

    def done(self) -> str:
        """The file."""
        return "\n".join([*self.parts, "</svg>", ""])


def method() -> str:
    """Frames through frozen blocks, and the side network beside them."""
    sheet = Sheet(960, 392, "A frozen image model, and the side network that taps it")
    sheet.text(24, 34, "frozen image model", bold=True, size=15, anchor="start")
    sheet.text(24, 54, "each frame by itself, no gradient, runs once", colour=FAINT, size=13, anchor="start")
    for number, place in enumerate((0.25, 0.42, 0.6, 0.78)):
        sheet.frame(24 + 14 * number, 92 + 10 * number, 54, place)
    sheet.text(72, 204, "T frames", colour=FAINT, size=13)
    blocks = (("block 1", 190), ("block 2", 340), ("block 3", 490), ("block L", 690))
    sheet.arrow((142, 130), (188, 130))
    for number, (name, x) in enumerate(blocks):
        sheet.box(x, 98, 110, 64, fill=FROZEN, edge=FROZEN_EDGE)
        sheet.text(x + 55, 135, name)
        if number:
            before = blocks[number - 1][1] + 110
            sheet.arrow((before, 130), (x - 2, 130), dashed=name == "block L")
        sheet.arrow((x + 55, 162), (x + 55, 256), tap=True)
    sheet.text(758, 208, "taps: the tokens", colour=TAP, size=13, anchor="start")
    sheet.text(758, 225, "of chosen blocks", colour=TAP, size=13, anchor="start")
    sheet.arrow((72, 212), (72, 256))
    names = ("side block 1", "side block 2", "side block 3", "side block L")
    sheet.box(24, 258, 96, 64, fill=TRAINED, edge=TRAINED_EDGE)
    sheet.text(72, 287, "stem")
    sheet.text(72, 305, "3D patches", colour=FAINT, size=12)
    sheet.arrow((120, 290), (188, 290))
    for number, (name, (_, x)) in enumerate(zip(names, blocks, strict=True)):
        sheet.box(x, 258, 110, 64, fill=TRAINED, edge=TRAINED_EDGE)
        sheet.text(x + 55, 287, name)
        sheet.text(x + 55, 305, "time, space", colour=FAINT, size=12)
        if number:
            before = blocks[number - 1][1] + 110
            sheet.arrow((before, 290), (x - 2, 290), dashed=name == "side block L")
    sheet.arrow((800, 290), (838, 290))
    sheet.box(840, 258, 96, 64, fill=TRAINED, edge=TRAINED_EDGE)
    sheet.text(888, 287, "mean, then")
    sheet.text(888, 305, "classes, text")
    sheet.text(24, 358, "side network", bold=True, size=15, anchor="start")
    sheet.text(
        24, 378, "the only part that is trained and saved; gradients stay in this row",
        colour=FAINT, size=13, anchor="start",
    )  # fmt: skip
    return sheet.done()


def block() -> str:
    """The inside of one side block."""
    sheet = Sheet(960, 330, "One stage of the side network: projection, mean, time, space, feed-forward")
    sheet.text(24, 34, "one stage of the side network", bold=True, size=15, anchor="start")
    sheet.box(24, 62, 130, 56, fill=FROZEN, edge=FROZEN_EDGE)
    sheet.text(89, 86, "frozen tokens")
    sheet.text(89, 104, "D wide", colour=FAINT, size=12)
    sheet.box(24, 176, 130, 56, fill=TRAINED, edge=TRAINED_EDGE)
    sheet.text(89, 200, "side stream")
    sheet.text(89, 218, "S wide, S < D", colour=FAINT, size=12)
    sheet.box(196, 62, 120, 56, fill=TRAINED, edge=TRAINED_EDGE)
    sheet.text(256, 86, "projection")
    sheet.text(256, 104, "norm, linear", colour=FAINT, size=12)
    sheet.arrow((154, 90), (194, 90), tap=True)
    sheet.arrow((154, 204), (232, 204))
    sheet.arrow((256, 118), (256, 178), tap=True)
    sheet.text(244, 150, "patches", colour=TAP, size=12, anchor="end")
    sheet.box(232, 180, 48, 48, fill=PAPER, edge=LINE, radius=24)
    sheet.text(256, 209, "mean", size=13)
    parts = (
        (330, "time", "depthwise convolution", "over the frames"),
        (530, "space", "attention inside", "each frame"),
        (730, "feed-forward", "four times", "the width"),
    )
    for number, (x, name, first, second) in enumerate(parts):
        sheet.box(x, 168, 160, 74, fill=TRAINED, edge=TRAINED_EDGE)
        sheet.text(x + 80, 193, name, bold=True)
        sheet.text(x + 80, 213, first, colour=FAINT, size=12)
        sheet.text(x + 80, 230, second, colour=FAINT, size=12)
        sheet.arrow((280 if number == 0 else x - 40, 204), (x - 2, 204))
        # the way around each part
        sheet.arrow((x - 18, 204), (x - 18, 262), (x + 170, 262), (x + 170, 209), dashed=True)
    sheet.arrow((890, 204), (940, 204))
    sheet.text(430, 284, "each part is added to what went in", colour=FAINT, size=13)
    sheet.arrow((316, 90), (610, 90), (610, 166), tap=True)
    about = (
        "class tokens of the neighbouring frames,",
        "half of the channels from the next frame,",
        "half from the previous one: one more",
        "key and value for each frame",
    )
    for number, words in enumerate(about):
        sheet.text(628, 74 + 18 * number, words, colour=TAP, size=13, anchor="start")
    sheet.text(
        24, 312, "blue: from the frozen model, no gradient flows back along it", colour=FAINT, size=13, anchor="start"
    )
    return sheet.done()


def kept() -> str:
    """What training keeps for the backward pass, here and where a gradient enters the large model."""
    sheet = Sheet(960, 330, "What is kept for the backward pass")
    columns = (
        (24, "a gradient inside the large model", "fine-tuning, LoRA, adapters"),
        (344, "side network, fast", "everything inside the small network"),
        (664, "side network, balanced", "what enters each small block, and the taps"),
    )
    for place, (x, name, about) in enumerate(columns):
        sheet.text(x, 34, name, bold=True, size=15, anchor="start")
        sheet.text(x, 54, about, colour=FAINT, size=12.5, anchor="start")
        for layer in range(5):
            y = 78 + 42 * layer
            filled = place == 0
            sheet.box(x, y, 150, 32, fill=TRAINED if filled else FROZEN, edge=TRAINED_EDGE if filled else FROZEN_EDGE)
            sheet.text(x + 75, y + 21, "all inside is kept" if filled else "frozen: nothing kept", size=12)
            if place == 0:
                continue
            sheet.arrow((x + 150, y + 16), (x + 182, y + 16), tap=True)
            small = place == 2
            sheet.box(
                x + 184, y, 82, 32, fill=PAPER if small else TRAINED, edge=TRAINED_EDGE,
            )  # fmt: skip
            sheet.text(x + 225, y + 21, "input only" if small else "all inside", size=12)
    words = (
        "orange: kept. In all three the weights are in memory too; those of the frozen model may wait in host memory."
    )
    sheet.text(24, 312, words, colour=FAINT, size=13, anchor="start")
    return sheet.done()


def memory() -> str:
    """Peaks of a training step by mode and cause, from the ladder's result file."""
    rows = json.loads(LADDER.read_text(encoding="utf-8"))["rows"]
    chosen = [(key, [mode for mode in MODES if mode in rows[key]["cells"]]) for key in ("b16", "l14", "e14-16")]
    line, gap, top = 26, 58, 96
    height = top + sum(gap + line * len(modes) for _, modes in chosen) - 10
    sheet = Sheet(960, height, "Where the memory of a training step goes, by mode")
    sheet.text(24, 34, "where the memory of a training step goes", bold=True, size=15, anchor="start")
    x = 24.0
    for name, (colour, _) in CAUSES.items():
        sheet.box(x, 50, 14, 14, fill=colour, edge=LINE, radius=3)
        sheet.text(x + 20, 62, name, size=12.5, anchor="start", colour=FAINT)
        x += 32 + 6.1 * len(name)
    y = top
    for key, modes in chosen:
        sheet.text(24, y + 8, rows[key]["title"], anchor="start", bold=True, size=13.5)
        y += 20
        most = max(rows[key]["cells"][mode]["gib"] for mode in modes)
        for mode in modes:
            cell = rows[key]["cells"][mode]
            sheet.text(116, y + 15, mode, anchor="end", size=13)
            left, scale = 126.0, 690 / most
            for colour, keys in CAUSES.values():
                length = scale * sum(cell["by_cause_gib"].get(cause, 0.0) for cause in keys)
                if length > 0.4:
                    sheet.parts.append(
                        f'<rect x="{left:.1f}" y="{y + 2}" width="{length:.1f}" height="{line - 8}" fill="{colour}"/>'
                    )
                left += length
            sheet.text(left + 8, y + 15, f"{cell['gib']:.1f} GiB", anchor="start", size=13)
            y += line
        y += gap - 20
    return sheet.done()


def pictures() -> dict[str, str]:
    """Every file by its name."""
    return {"method.svg": method(), "block.svg": block(), "kept.svg": kept(), "memory.svg": memory()}


def main() -> None:
    """Write them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, content in pictures().items():
        (IMAGES / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
