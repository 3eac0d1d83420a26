"""Captioned motion clips for retrieval: every scene is drawn once with each motion, so that appearance is not enough.

A scene is a shape over a background, which all of its clips share; the two of an opposite pair show the same frames in
opposite order. A caption names appearance and motion. Who
knows the scene and nothing else finds one of `len(MOTIONS)` clips by luck, who knows all frames but not their order
one of two.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np

from side4video.data.motion_files import encode_clip
from side4video.data.motions import draw_motion

MOTIONS = (
    "move-left",
    "move-right",
    "move-up",
    "move-down",
    "grow",
    "shrink",
    "circle-clockwise",
    "circle-anticlockwise",
)
"""Four pairs of opposites of one shape; names as in `motions`."""
TRAIN, GALLERY = "train", "gallery"


@dataclass(frozen=True)
class CaptionedMotion:
    """One written clip: `video` is relative to the data set's folder; `scene` counts within the split."""

    video: str
    caption: str
    scene: int
    motion: str


def write_captioned_motions(
    folder: Path, *, seed: int, train_scenes: int, gallery_scenes: int, processes: int | None = None
) -> dict[str, list[CaptionedMotion]]:
    """Draw and encode both splits, scene by scene, and list them; `train.jsonl` and `gallery.jsonl` say the same.

    Clips depend on (seed, split, scene, motion) alone. No two scenes of the gallery have the same words.

    Raises:
        ValueError: fewer than two scenes in a split.
        OSError: the folder cannot be written.
    """
    for split, number in ((TRAIN, train_scenes), (GALLERY, gallery_scenes)):
        if number < 2:
            raise ValueError(f"{split}_scenes must be at least 2; got {number}")
        (folder / split).mkdir(parents=True, exist_ok=True)
    seeds = {
        TRAIN: [(seed, 0, number) for number in range(train_scenes)],
        GALLERY: _distinct_scenes(seed, gallery_scenes),
    }
    jobs = [
        (folder, split, scene, own, motion)
        for split, chosen in seeds.items()
        for scene, own in enumerate(chosen)
        for motion in MOTIONS
    ]
    workers = processes or min(8, os.cpu_count() or 1)
    if workers == 1:
        drawn = [_write_one(*job) for job in jobs]
    else:
        # spawn: a fork of a process that has already started torch's threads may hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            drawn = list(pool.map(_write_one, *zip(*jobs, strict=True), chunksize=16))
    clips = {split: [clip for clip in drawn if clip.video.startswith(f"{split}/")] for split in seeds}
    for split, listed in clips.items():
        lines = [json.dumps(asdict(clip)) for clip in listed]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return clips


def _distinct_scenes(seed: int, number: int) -> list[tuple[int, int, int]]:
    """Seeds of scenes that no two captions describe alike."""
    found: dict[str, tuple[int, int, int]] = {}
    for attempt in count():
        own = (seed, 1, attempt)
        # what stays the same in every caption of a scene: its shape and its background
        words = draw_motion("grow", np.random.default_rng(own)).caption
        found.setdefault(words, own)
        if len(found) == number:
            break
    return list(found.values())


def _write_one(folder: Path, split: str, scene: int, seed: Sequence[int], motion: str) -> CaptionedMotion:
    # the same seed draws the same shape and background for every motion of one shape
    clip = draw_motion(motion, np.random.default_rng(seed))
    video = f"{split}/{scene:03d}-{motion}.mp4"
    encode_clip(clip, folder / video)
    return CaptionedMotion(video, clip.caption, scene, motion)
