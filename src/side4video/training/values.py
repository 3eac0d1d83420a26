"""What goes into a training, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side4video.batch import BrokenClip, VideoBatch


@dataclass(frozen=True)
class TrainingData:
    """What a process trains and validates on.

    `seek(epoch, batch)` sets where the next pass over `train_loader` begins; every process has `batches_per_epoch`
    batches. `num_train` counts the training videos of all processes. `fingerprint` is equal for equal data sets.
    """

    train_loader: Iterable[VideoBatch]
    val_loader: Iterable[VideoBatch] | None
    seek: Callable[[int, int], None]
    batches_per_epoch: int
    num_train: int
    fingerprint: str = ""


@dataclass(frozen=True)
class FitResult:
    """How training went. `top1` is the best validation top-1 (null without validation), `broken` the training videos
    that could not be read. Only the process with `is_main` should tell the user."""

    out: Path
    epochs: int
    steps: int
    top1: float | None
    best_epoch: int | None
    history: tuple[dict[str, Any], ...]
    broken: tuple[BrokenClip, ...]
    seconds: float
    is_main: bool
