"""Writes a data set of motion clips: H.264 files in `train/CLASS/` and `val/CLASS/`, and their captions.

Every clip depends on (seed, split, class, number) alone, so the files do not depend on how many processes draw them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from side4video.data.motions import MotionClip, draw_motion, motion_classes

CAPTIONS = "captions.jsonl"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class DrawnClip:
    """One written file: `video` is relative to the data set's folder."""

    video: str
    caption: str
    class_name: str
    split: str


def write_motion_clips(
    folder: Path,
    *,
    seed: int,
    train_per_class: int,
    val_per_class: int,
    classes: Sequence[str] | None = None,
    processes: int | None = None,
) -> list[DrawnClip]:
    """Draw and encode a data set with `processes` processes (default: one a core, at most 8); list what was written.

    `classes` are some of `motion_classes()`; default: all of them. A clip is the same whatever else is drawn.

    `captions.jsonl` has one JSON object a line: video, caption, class, split.

    Raises:
        ValueError: fewer than one clip per class, or a class that is not among `motion_classes()`.
        OSError: the folder cannot be written.
    """
    counts = {"train": train_per_class, "val": val_per_class}
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"{split}_per_class must be at least 1; got {count}")
    names = motion_classes() if classes is None else list(classes)
    unknown = sorted(set(names) - set(motion_classes()))
    if unknown:
        raise ValueError(f"classes must be among {', '.join(motion_classes())}; got {', '.join(unknown)}")
    for split in SPLITS:
        for name in names:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
    jobs = [
        (folder, seed, split, name, number) for split in SPLITS for name in names for number in range(counts[split])
    ]
    workers = processes or min(8, os.cpu_count() or 1)
    if workers == 1:
        drawn = [_write_one(*job) for job in jobs]
    else:
        # spawn: a fork of a process that has already started torch's threads may hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            drawn = list(pool.map(_write_one, *zip(*jobs, strict=True), chunksize=16))
    lines = [
        json.dumps({"video": clip.video, "caption": clip.caption, "class": clip.class_name, "split": clip.split})
        for clip in drawn
    ]
    (folder / CAPTIONS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return drawn


def encode_clip(clip: MotionClip, path: Path) -> None:
    """Write a clip as H.264 in mp4.

    Raises:
        OSError: the file cannot be written.
    """
    _, height, width, _ = clip.frames_THWC.shape
    # bitexact: no date of writing in the file
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=clip.frame_rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        # x264's macroblock tree is not the same twice on small pictures
        stream.options = {"crf": "20", "preset": "veryfast", "g": "12", "x264-params": "mbtree=0"}
        for frame_HWC in clip.frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())


def _write_one(folder: Path, seed: int, split: str, class_name: str, number: int) -> DrawnClip:
    generator = np.random.default_rng([seed, SPLITS.index(split), motion_classes().index(class_name), number])
    clip = draw_motion(class_name, generator)
    video = f"{split}/{class_name}/{number:04d}.mp4"
    encode_clip(clip, folder / video)
    return DrawnClip(video, clip.caption, class_name, split)
