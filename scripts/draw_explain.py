"""Draws `docs/images/explain.png`: clips of the demo as its model sees them, and the same with their maps.

side4video demo --out demo
python scripts/draw_explain.py demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from side4video.cli.explanation import explain_video, load_explainer, shown_crop
from side4video.explain import overlay

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "explain.png"
CLASSES = ("move-left", "grow", "part", "circle-clockwise")
NUMBER = "0000.mp4"
CELL, GAP, LABEL = 104, 4, 24


def main() -> None:
    """Draw the picture of the clips of a demo folder."""
    parser = argparse.ArgumentParser(description="Draws docs/images/explain.png.")
    parser.add_argument("demo", type=Path, help="the folder that `side4video demo --out` has made")
    demo = parser.parse_args().demo
    explainer = load_explainer(demo / "run", {"train.accelerator": "cpu"}, target=None, text=None, steps=16)
    videos = [explain_video(explainer, demo / "clips" / "val" / name / NUMBER) for name in CLASSES]
    columns = len(videos[0].frames)
    strip = columns * (CELL + GAP) - GAP
    row = LABEL + 2 * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (2 * strip + 6 * GAP, row * ((len(videos) + 1) // 2)), "white")
    pencil, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, video in enumerate(videos):
        left, top = (place % 2) * (strip + 6 * GAP), (place // 2) * row
        found = video.explanation
        pencil.text((left + 1, top + 3), f"{found.label}  {100 * found.score:.0f} %", fill=(40, 40, 40), font=font)
        frames_THWC, _ = shown_crop(explainer, video.path, video.frames)
        painted_THWC = overlay(frames_THWC, found.maps_TYX)
        for below, pictures in enumerate((frames_THWC, painted_THWC)):
            for number, picture in enumerate(pictures):
                small = Image.fromarray(np.ascontiguousarray(picture)).resize((CELL, CELL), Image.Resampling.LANCZOS)
                sheet.paste(small, (left + number * (CELL + GAP), top + LABEL + below * (CELL + GAP)))
    sheet.save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
