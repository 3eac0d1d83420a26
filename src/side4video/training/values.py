"""What goes into a training and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side4video.batch import BrokenClip, CaptionBatch, VideoBatch


@dataclass(frozen=True)
class TrainingData:
    """What a process trains and validates on.

    `seek(epoch, batch)` sets where the next pass over `train_loader` begins; every process has `batches_per_epoch`
    batches. `num_train` counts the training videos of all processes. `fingerprint` is equal for equal data sets.
    """

    train_loader: Iterable[VideoBatch] | Iterable[CaptionBatch]
    val_loader: Iterable[VideoBatch] | Iterable[CaptionBatch] | None
    seek: Callable[[int, int], None]
    batches_per_epoch: int
    num_train: int
    fingerprint: str = ""


@dataclass(frozen=True)
class Place:
    """Where in training a batch stands: batch `index` of an epoch, one of `in_step` in its optimiser step, the last
    one when it `ends` it. Both numbers count from 0."""

    epoch: int
    index: int
    ends: bool
    in_step: int


@dataclass(frozen=True)
class Validation:
    """What a validation found. The best weights are those of the highest `score`; between equals the lower `loss`
    decides. `values` are named as in the history, without `val_`."""

    score: float
    loss: float
    values: dict[str, float]
    broken: tuple[BrokenClip, ...]


@dataclass(frozen=True)
class FitResult:
    """How training went. `top1` is the best validation top-1 of a classifier, `t2v_r1` the best text-to-video R@1 in
    retrieval (null without validation, and for the other task), `broken` the training videos that could not be read.
    Only the process with `is_main` should tell the user."""

    out: Path
    epochs: int
    steps: int
    top1: float | None
    best_epoch: int | None
    history: tuple[dict[str, Any], ...]
    broken: tuple[BrokenClip, ...]
    seconds: float
    is_main: bool
    t2v_r1: float | None = None
