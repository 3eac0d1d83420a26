"""Videos that could not be read: kept by name, counted once, and too many of them stop the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from side4video.batch import BrokenClip
from side4video.errors import TrainingError

SHOWN = 3


class BrokenLog:
    """The broken videos of a training set of `num_videos`, of which a share of `tolerance` may be broken."""

    def __init__(self, num_videos: int, tolerance: float) -> None:
        self.num_videos = num_videos
        self.tolerance = tolerance
        self.train: dict[int, BrokenClip] = {}
        self.val: dict[int, BrokenClip] = {}

    def unseen(self, clips: Iterable[BrokenClip]) -> list[BrokenClip]:
        """Those that are not yet on the list."""
        return [clip for clip in clips if clip.index not in self.train]

    def add(self, clips: Iterable[BrokenClip]) -> None:
        """Put training videos on the list."""
        self.train.update((clip.index, clip) for clip in clips)

    def check(self) -> None:
        """Stop when too many are broken.

        Raises:
            TrainingError: naming how many, how many may be, and the first few.
        """
        if len(self.train) <= self.tolerance * self.num_videos:
            return
        first = [f"{clip.path}: {clip.reason}" for _, clip in sorted(self.train.items())[:SHOWN]]
        raise TrainingError(
            f"{len(self.train)} of {self.num_videos} training videos are broken, more than the "
            f"{self.tolerance:.0%} that data.broken_tolerance allows; the first: {'; '.join(first)}"
        )

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """`train` and `val` lists in order of the records."""
        return {
            name: [
                {"index": clip.index, "path": clip.path, "reason": clip.reason} for _, clip in sorted(listed.items())
            ]
            for name, listed in (("train", self.train), ("val", self.val))
        }

    def restore(self, values: Mapping[str, list[dict[str, Any]]]) -> None:
        """Put back what `as_json` gave."""
        for name, listed in (("train", self.train), ("val", self.val)):
            listed.clear()
            listed.update((entry["index"], BrokenClip(**entry)) for entry in values[name])
