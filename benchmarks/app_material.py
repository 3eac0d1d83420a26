"""What the web page is tested, measured and shown with: clips of coloured discs, a classifier of their colours, and a
library of longer videos, in each of which one colour follows the other at a known time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

COLOURS = {"red": (222, 44, 44), "green": (50, 176, 72), "blue": (48, 92, 226), "yellow": (246, 218, 50)}
CLASSES = ("blue disc", "green disc", "red disc")
FPS = 10
NUM_FRAMES = 4
TINY = {
    "backbone.name": "tiny-clip",
    "backbone.precision": "fp32",
    "side.width": 24,
    "data.num_frames": NUM_FRAMES,
    "train.accelerator": "cpu",
    "train.precision": "fp32",
}
Scenes = Sequence[tuple[str, float]]
"""Colours with the seconds that each is shown."""


def write_video(
    path: Path, scenes: Scenes, *, seed: int = 0, size: tuple[int, int] = (96, 64), codec: str = "libx264"
) -> Path:
    """A disc that wanders over a dark ground and changes its colour; `size` is width and height."""
    generator = np.random.default_rng(seed)
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": "20", "bf": "0"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, FPS)
        start, speed = generator.uniform(0, 6.28, 2), generator.uniform(0.8, 1.6, 2)
        ground = generator.uniform(24, 70, 3)
        number = 0
        for colour, seconds in scenes:
            for _ in range(round(seconds * FPS)):
                middle = 0.5 + 0.22 * np.sin(start + speed * number / FPS)
                frame = av.VideoFrame.from_ndarray(_disc(middle, COLOURS[colour], ground, width, height), "rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
                number += 1
        container.mux(stream.encode())
    return path


def write_train_clips(folder: Path, *, each: int = 14) -> Path:
    """`train` and `val`, with a folder of short clips a class."""
    for place, name in enumerate(CLASSES):
        for number in range(each):
            split = "train" if number else "val"
            write_video(folder / split / name / f"{number}.mp4", [(name.split()[0], 0.6)], seed=100 * place + number)
    return folder


def train_classifier(clips: Path, out: Path, *, width: int = 24) -> Path:
    """A run that tells the colours, in a few seconds."""
    from side4video.build import train_run
    from side4video.config.load import load_settings

    settings = {
        **TINY,
        "side.width": width,
        "data.train": str(clips / "train"),
        "data.val": str(clips / "val"),
        "data.workers": 0,
        "data.batch_size": 5,
        "optim.epochs": 2,
        "optim.lr": 0.01,
        "optim.warmup_epochs": 0,
    }
    train_run(load_settings(None, settings), out)
    return out


def write_retrieval_run(out: Path) -> Path:
    """A retrieval run that has not been trained: it finds what the frozen model finds."""
    from side4video.build import build_backbone, build_spec, resolve_settings
    from side4video.build_retrieval import build_text_model
    from side4video.config.load import load_settings
    from side4video.training.checkpoint import RunFolder

    settings = load_settings(None, {"task": "retrieval", "retrieval.interaction": "mean", **TINY})
    backbone = build_backbone(settings)
    model = build_text_model(settings, backbone, build_spec(settings.side, backbone, retrieval=True))
    folder = RunFolder(out)
    folder.begin(resolve_settings(settings, backbone), backbone, None)
    folder.save_weights(model.trainable_state())
    return out


FOOTAGE: dict[str, tuple[Scenes, str]] = {
    "harbour/morning.mp4": ((("green", 4.0), ("red", 3.0), ("green", 3.0)), "libx264"),
    "harbour/evening.avi": ((("green", 3.0), ("blue", 3.0), ("green", 2.0)), "mpeg4"),
    "garden/noon.mp4": ((("green", 5.0), ("yellow", 3.0), ("green", 2.0)), "libx264"),
}
"""Videos of a library: their scenes and their codec. Browsers play H.264 in mp4 as it is, and MPEG-4 not at all."""


def moment_of(colour: str) -> tuple[str, float, float]:
    """In which video a colour is shown, from when to when."""
    for name, (scenes, _) in FOOTAGE.items():
        start = 0.0
        for shown, seconds in scenes:
            if shown == colour and colour != "green":
                return name, start, start + seconds
            start += seconds
    raise ValueError(f"no video shows {colour} once")


def write_library(run: Path, footage: Path, into: Path, *, size: tuple[int, int] = (96, 64)) -> Path:
    """The footage, drawn and indexed."""
    from side4video.cli.main import main

    for seed, (name, (scenes, codec)) in enumerate(FOOTAGE.items()):
        write_video(footage / name, scenes, seed=1000 + seed, size=size, codec=codec)
    words = ["index", str(run), str(footage), "--into", str(into), "--fps", "4", "train.accelerator=cpu"]
    if main(words) != 0:
        raise RuntimeError("the library could not be made")
    return into


def _disc(
    middle: NDArray[np.float64], colour: tuple[int, int, int], ground: NDArray[np.float64], width: int, height: int
) -> NDArray[np.uint8]:
    ys, xs = np.mgrid[0:height, 0:width]
    radius = 0.24 * min(width, height)
    distance = np.hypot(xs - middle[0] * width, ys - middle[1] * height)
    cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]
    light = 1 - 0.35 * np.clip(distance / radius, 0, 1)[..., None]
    return (ground * (1 - cover) + np.array(colour) * light * cover).astype(np.uint8)
