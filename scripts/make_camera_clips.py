"""Cuts clips out of photographs with a moving camera: 8 classes, H.264 files in `train/CLASS/` and `val/CLASS/`.

The camera pans left or right, tilts up or down, zooms in or out, or rotates clockwise or anticlockwise (names are of
the camera; the picture moves the other way). Classes come in pairs of opposites. A pair has one way of drawing, and its
second class is the first one played backward, so the two are exact time reversals in distribution. Every class gets the
same photographs, equally often; window, start, speed, roll, shake, mirror, light, noise, length and picture size are
drawn alike for both classes of a pair. A photograph belongs to training or to validation, never to both.

    python scripts/make_camera_clips.py --photos DIR --out clips --train-per-class 100 --val-per-class 30
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from side4video.data.motion_files import encode_clip
from side4video.data.motions import MotionClip

PAIRS = (
    ("pan-left", "pan-right"),
    ("tilt-up", "tilt-down"),
    ("zoom-in", "zoom-out"),
    ("rotate-clockwise", "rotate-anticlockwise"),
)
CLASSES = tuple(name for pair in PAIRS for name in pair)
SPLITS = ("train", "val")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SMALLEST_SIDE = 240  # photographs with a shorter side are left out
WORKING_SIDE = 480  # larger photographs are scaled down to this short side
LEAST_DETAIL = 2.0  # mean grey step between neighbouring pixels at 64x64; plain gradients have less and show no motion
SAME_PHOTOGRAPH = 6  # of 64 bits of the difference hash
PICTURE_SIDES = (112, 128, 144)
NUM_FRAMES = (10, 16)
FRAME_RATES = (8, 10, 12, 15)


@dataclass(frozen=True)
class Window:
    """What the camera sees at one moment: centre and height in photograph pixels, roll in radians (clockwise)."""

    x: float
    y: float
    height: float
    angle: float


@dataclass(frozen=True)
class CutClip:
    """One written file, relative to the data set's folder, and the photograph that it shows."""

    video: str
    class_name: str
    split: str
    photograph: str
    number: int


def main() -> None:
    """Draw a data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, action="append", required=True, help="folder of photographs; repeatable")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-per-class", type=int, default=100)
    parser.add_argument("--val-per-class", type=int, default=30)
    parser.add_argument("--val-fraction", type=float, default=0.25, help="share of the photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    photographs = find_photographs(options.photos)
    parts = split_photographs(list(photographs), val_fraction=options.val_fraction, seed=options.seed)
    counts = {"train": options.train_per_class, "val": options.val_per_class}
    clips = plan_clips(parts, counts)
    write_camera_clips(options.out, photographs, clips, seed=options.seed, processes=options.processes)
    summary = {
        "clips": {split: sum(clip.split == split for clip in clips) for split in SPLITS},
        "photographs": {split: len({clip.photograph for clip in clips if clip.split == split}) for split in SPLITS},
    }
    (options.out / "clips.json").write_text(
        json.dumps(
            {
                **summary,
                "files": {name: str(path.name) for name, path in photographs.items()},
                "list": [asdict(clip) for clip in clips],
            },
            indent=1,
        )
    )
    print(json.dumps(summary))


def find_photographs(folders: Iterable[Path]) -> dict[str, Path]:
    """Photographs by content (the first 16 digits of the file's sha256), without copies, small and plain pictures.

    Raises:
        ValueError: fewer than four are left.
    """
    found: dict[str, Path] = {}
    hashes: list[NDArray[np.bool_]] = []
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    for name, path in sorted((hashlib.sha256(path.read_bytes()).hexdigest()[:16], path) for path in files):
        with Image.open(path) as picture:
            if min(picture.size) < SMALLEST_SIDE:
                continue
            grey = np.asarray(picture.convert("L").resize((64, 64), Image.Resampling.BOX), dtype=np.float32)
        detail = (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
        bits = difference_hash(grey)
        if detail < LEAST_DETAIL or any(int((bits ^ other).sum()) <= SAME_PHOTOGRAPH for other in hashes):
            continue
        found[name] = path
        hashes.append(bits)
    if len(found) < 4:
        raise ValueError(
            f"at least 4 different photographs of {SMALLEST_SIDE} px and more are needed; found {len(found)}"
        )
    return found


def difference_hash(grey_64: NDArray[np.float32]) -> NDArray[np.bool_]:
    """64 bits that survive scaling and recompression: is each of 8x8 areas brighter than its right neighbour?"""
    small = np.asarray(Image.fromarray(grey_64).resize((9, 8), Image.Resampling.BOX))
    return (small[:, :-1] > small[:, 1:]).ravel()


def split_photographs(names: Sequence[str], *, val_fraction: float, seed: int) -> dict[str, list[str]]:
    """Photographs for training and for validation: no photograph in both, every one in one of them."""
    order = [sorted(names)[i] for i in np.random.default_rng([seed, 1]).permutation(len(names))]
    num_val = min(len(order) - 1, max(1, round(len(order) * val_fraction)))
    return {"train": order[num_val:], "val": order[:num_val]}


def plan_clips(parts: dict[str, list[str]], counts: dict[str, int]) -> list[CutClip]:
    """All clips of a data set; clip number n of every class shows photograph n of its split, round and round."""
    return [
        CutClip(f"{split}/{class_name}/{number:04d}-{name}.mp4", class_name, split, name, number)
        for split in SPLITS
        for class_name in CLASSES
        for number in range(counts[split])
        for name in [parts[split][number % len(parts[split])]]
    ]


def write_camera_clips(
    folder: Path, photographs: dict[str, Path], clips: Sequence[CutClip], *, seed: int, processes: int
) -> None:
    """Draw and encode clips; each depends on its photograph and on (seed, split, class, number) alone."""
    for part in {Path(clip.video).parent for clip in clips}:
        (folder / part).mkdir(parents=True, exist_ok=True)
    jobs = [(folder, photographs[clip.photograph], seed, clip) for clip in clips]
    if processes == 1:
        for job in jobs:
            _write_one(*job)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_one, *zip(*jobs, strict=True), chunksize=16))


def draw_camera_clip(photo: Image.Image, class_name: str, generator: np.random.Generator) -> MotionClip:
    """One random clip of a class, cut from an RGB photograph.

    Raises:
        ValueError: no such class.
    """
    if class_name not in CLASSES:
        raise ValueError(f"class_name must be one of {', '.join(CLASSES)}; got {class_name!r}")
    forward, backward = next(pair for pair in PAIRS if class_name in pair)
    if generator.random() < 0.5:
        photo = ImageOps.mirror(photo)
    width, height = (int(side) for side in generator.choice(PICTURE_SIDES, size=2))
    num_frames = int(generator.integers(NUM_FRAMES[0], NUM_FRAMES[1] + 1))
    windows = camera_path(forward, photo.size, width / height, num_frames, generator)
    gain, lift = float(generator.uniform(0.85, 1.15)), float(generator.uniform(-15, 15))
    noise = float(generator.uniform(0, 4))
    frames: list[NDArray[np.uint8]] = []
    for window in windows:
        picture = np.asarray(look(photo, window, width, height), dtype=np.float32)
        picture = (picture - 127.5) * gain + 127.5 + lift + generator.normal(0, 1, picture.shape) * noise
        frames.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    if class_name == backward:
        frames.reverse()
    words = f"the camera does a {class_name.replace('-', ' ')}"
    return MotionClip(np.stack(frames), class_name, words, int(generator.choice(FRAME_RATES)))


def camera_path(
    motion: str, photo_size: tuple[int, int], aspect: float, num_frames: int, generator: np.random.Generator
) -> list[Window]:
    """The windows of a forward motion (the first of a pair), all inside the photograph.

    The path is drawn around the origin, with the window's height as the unit, then put into the photograph.
    """
    progress_T = _progress(num_frames, generator)
    offset_T = progress_T - 0.5
    shake = _shake(num_frames, generator)
    x_T, y_T = shake[0] * 0.025, shake[1] * 0.025
    scale_T, angle_T = shake[2] * 0.02, shake[3] * 0.025 + generator.uniform(-0.15, 0.15)
    if motion in ("pan-left", "tilt-up"):
        heading = (math.pi if motion == "pan-left" else -math.pi / 2) + generator.uniform(-0.15, 0.15)
        distance = generator.uniform(0.35, 0.75)
        x_T = x_T + math.cos(heading) * distance * offset_T
        y_T = y_T + math.sin(heading) * distance * offset_T
    elif motion == "zoom-in":
        scale_T = scale_T - math.log(generator.uniform(1.5, 2.2)) * offset_T
    elif motion == "rotate-clockwise":
        angle_T = angle_T + math.radians(generator.uniform(35, 85)) * offset_T
    else:
        raise ValueError(f"motion must be the first of a pair: {[pair[0] for pair in PAIRS]}; got {motion!r}")
    height_T = np.exp(scale_T)
    # half the extent of a turned window
    cos_T, sin_T = np.abs(np.cos(angle_T)), np.abs(np.sin(angle_T))
    reach_x, reach_y = height_T / 2 * (aspect * cos_T + sin_T), height_T / 2 * (aspect * sin_T + cos_T)
    left, right = float((x_T - reach_x).min()), float((x_T + reach_x).max())
    top, bottom = float((y_T - reach_y).min()), float((y_T + reach_y).max())
    wide, high = photo_size
    unit = generator.uniform(0.42, 0.58) * min(photo_size)
    unit = min(unit, wide / (right - left), high / (bottom - top))
    x = generator.uniform(-left * unit, wide - right * unit) if (right - left) * unit < wide else -left * unit
    y = generator.uniform(-top * unit, high - bottom * unit) if (bottom - top) * unit < high else -top * unit
    return [
        Window(float(x + unit * dx), float(y + unit * dy), float(unit * height), float(angle))
        for dx, dy, height, angle in zip(x_T, y_T, height_T, angle_T, strict=True)
    ]


def look(photo: Image.Image, window: Window, width: int, height: int) -> Image.Image:
    """The window as a picture of `width` by `height` pixels; sampled twice as fine, then averaged."""
    step = window.height / (2 * height)
    across, down = step * math.cos(window.angle), step * math.sin(window.angle)
    # output (u, v) -> photograph: centre + u * (across, down) + v * (-down, across), from the middle of the picture
    matrix = (
        across,
        -down,
        window.x - across * width + down * height,
        down,
        across,
        window.y - down * width - across * height,
    )
    fine = photo.transform((2 * width, 2 * height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return fine.reduce(2)


def _progress(num_frames: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Rising values from 0 to 1: rest, a motion at varying speed, rest."""
    start, stop = generator.uniform(0, 0.12), generator.uniform(0.88, 1)
    moving_T = np.clip((np.linspace(0, 1, num_frames) - start) / (stop - start), 0, 1)
    return moving_T ** np.exp(generator.uniform(-0.3, 0.3))


def _shake(num_frames: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """A hand that is not steady: slow waves of about unit size for x, y, scale and roll."""
    time_T = np.linspace(0, 1, num_frames)
    waves, phases = generator.uniform(0.3, 1.5, (4, 2, 1)), generator.uniform(0, 2 * math.pi, (4, 2, 1))
    return np.sin(2 * math.pi * waves * time_T + phases).sum(1) * generator.uniform(0.2, 1, (4, 1))


def _write_one(folder: Path, photo_file: Path, seed: int, clip: CutClip) -> None:
    generator = np.random.default_rng([seed, SPLITS.index(clip.split), CLASSES.index(clip.class_name), clip.number])
    with Image.open(photo_file) as picture:
        photo = ImageOps.exif_transpose(picture).convert("RGB")
    shrink = WORKING_SIDE / min(photo.size)
    if shrink < 1:
        photo = photo.resize((round(photo.width * shrink), round(photo.height * shrink)), Image.Resampling.LANCZOS)
    encode_clip(draw_camera_clip(photo, clip.class_name, generator), folder / clip.video)


if __name__ == "__main__":
    main()
