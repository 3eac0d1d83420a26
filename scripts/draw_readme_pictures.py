"""Draws the README's pictures of the demo: strips of frames (PNG) and a few moving clips (GIF under 1 MB).

The clips are drawn as the demo draws them; of many seeds the one with the least sensor noise is shown, which keeps the
files small.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from side4video.data.motions import MOTION_PAIRS, MotionClip, draw_motion
from side4video.demo.run import demo_classes

CELL, GAP, LABEL = 88, 4, 22
STRIP_FRAMES, GIF_FRAMES, GIF_CELL = 6, 20, 104
GIF_CLASSES = ("move-left", "move-up", "grow", "shrink", "circle-clockwise", "approach", "appear", "part")
SEEDS = 60


def calm_clip(class_name: str, *, skip: int = 0) -> MotionClip:
    """The clip with the least change between neighbouring pixels of the first frame's corners."""
    clips = [draw_motion(class_name, np.random.default_rng([seed, skip])) for seed in range(SEEDS)]
    # square pictures fill their cells
    clips = [clip for clip in clips if clip.frames_THWC.shape[1] == clip.frames_THWC.shape[2]]
    return min(
        clips, key=lambda clip: float(np.diff(clip.frames_THWC.astype(float), axis=0).__abs__()[:, :6, :6].mean())
    )


def cells(clip: MotionClip, count: int, side: int) -> list[Image.Image]:
    """So many frames, evenly spread over the clip, enlarged."""
    moments = np.linspace(0, len(clip.frames_THWC) - 1, count).round().astype(int)
    pictures = (Image.fromarray(clip.frames_THWC[moment]) for moment in moments)
    return [picture.resize((side, side), Image.Resampling.LANCZOS) for picture in pictures]


def draw_strips(path: Path) -> None:
    """One row a pair of opposites: six frames of each class under its name."""
    font = ImageFont.load_default(15)
    strip = STRIP_FRAMES * (CELL + GAP) - GAP
    row = LABEL + CELL + 2 * GAP
    pairs = [pair for pair in MOTION_PAIRS if pair.forward in demo_classes()]
    sheet = Image.new("RGB", (2 * strip + 6 * GAP, len(pairs) * row), "white")
    pencil = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        for column, name in enumerate((pair.forward, pair.backward)):
            left, top = column * (strip + 6 * GAP), number * row
            pencil.text((left + 1, top + 2), name, fill=(40, 40, 40), font=font)
            for place, picture in enumerate(cells(calm_clip(name, skip=column), STRIP_FRAMES, CELL)):
                sheet.paste(picture, (left + place * (CELL + GAP), top + LABEL))
    sheet.quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_moving(path: Path) -> None:
    """Eight clips side by side, each forward."""
    font = ImageFont.load_default(13)
    columns = 4
    rows = len(GIF_CLASSES) // columns
    step_x, step_y = GIF_CELL + GAP, GIF_CELL + LABEL
    frames = [Image.new("RGB", (columns * step_x - GAP, rows * step_y), "white") for _ in range(GIF_FRAMES)]
    for number, name in enumerate(GIF_CLASSES):
        left, top = number % columns * step_x, number // columns * step_y
        for frame, picture in zip(frames, cells(calm_clip(name, skip=2), GIF_FRAMES, GIF_CELL), strict=True):
            frame.paste(picture, (left, top + LABEL))
            ImageDraw.Draw(frame).text((left + 1, top + 3), name, fill=(40, 40, 40), font=font)
    # one palette for all frames, or the background flickers
    palette = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames[::5]])).quantize(96)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [500, *[90] * (GIF_FRAMES - 2), 900]
    small[0].save(path, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "images")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in (("demo_clips.png", draw_strips), ("demo_clips.gif", draw_moving)):
        draw(out / name)
        print(f"{out / name}: {(out / name).stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
