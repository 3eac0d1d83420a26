"""A small data set of real files, and the words that make a training small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

CLASSES = ("grow", "slide-left", "slide-right")
TINY = ("backbone.name=tiny-clip", "backbone.pretrained=false", "backbone.precision=fp32", "side.width=24")
TRAIN_CLIPS, VAL_CLIPS = 5, 2


def draw_clip(path: Path, class_name: str, *, seed: int, num_frames: int = 11) -> Path:
    """A bright square on a dark ground that moves as its class says, as MPEG-4."""
    generator = np.random.default_rng(seed)
    width, height = 80, 64
    row, shade = int(generator.integers(8, 40)), int(generator.integers(120, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            frame_HWC = np.full((height, width, 3), 30, np.uint8)
            side, left = 12, 5 * number
            if class_name == "slide-left":
                left = width - side - left
            elif class_name == "grow":
                side, left = 6 + 4 * number, 10
            frame_HWC[row : row + side, left : left + side] = (shade, 60, 255 - shade)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


def settings(*more: str, workers: int = 0) -> Sequence[str]:
    """The words that make a training small."""
    return [*TINY, f"data.workers={workers}", "data.num_frames=6", "data.batch_size=4", "train.accelerator=cpu", *more]
