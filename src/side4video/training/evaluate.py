"""Scores of every video of a loader: views averaged after softmax, exact under several processes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from side4video.batch import BrokenClip, VideoBatch
from side4video.errors import DataError, TrainingError
from side4video.tasks.metrics import RecognitionMetrics, RecognitionReport
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.zero_shot import ZeroShotClassifier
from side4video.training.runtime import Runtime

METRIC_STATE = ("indices", "views", "labels", "scores")
Batch = TypeVar("Batch", bound=Sized)


class EvaluationStopped(Exception):  # noqa: N818 - a wish, not an error
    """A process asked to stop; raised in all of them at the same batch."""


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics, and the scores of every video in order of its record in the manifest.

    `indices_V` are record numbers, `scores_VK` sum to one over the classes (float64), `loss` is the mean negative
    logarithm of the true class's score. `broken` lists the records that could not be read, in the same order; they are
    in none of the numbers.

    Shapes: V, videos that could be read.
    """

    report: RecognitionReport
    loss: float
    indices_V: Tensor
    labels_V: Tensor
    scores_VK: Tensor
    broken: tuple[BrokenClip, ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers that `--json` prints."""
        return {**self.report.as_dict(), "broken": len(self.broken)}


def evaluate(
    model: VideoClassifier | ZeroShotClassifier,
    loader: Iterable[VideoBatch],
    *,
    runtime: Runtime | None = None,
    on_batch: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> EvaluationResult:
    """Score every video of `loader`; with a runtime, each process its own part, merged by record.

    The processes may have different numbers of batches. Every one of them gets the whole result. `on_batch` is told
    how many clips of this process a batch had. The model is in the mode it was in before when this returns.

    Raises:
        DataError: no video could be read.
        TrainingError: scores that are NaN or infinite; the message names the records.
        EvaluationStopped: `should_stop` said so in one of the processes.
    """
    scorer = Scorer(model, runtime)
    with eval_mode(model):
        for batch in in_step(loader, runtime, should_stop, idle=model.take_part):
            scorer.add(batch)
            if on_batch is not None:
                on_batch(len(batch))
    return scorer.result()


class Scorer:
    """The scores of one model, batch by batch; `evaluate` for a caller that has the batches. The model is in eval mode.

    With a runtime, `result` merges what all processes found, and what went wrong in any of them.
    """

    def __init__(self, model: VideoClassifier | ZeroShotClassifier, runtime: Runtime | None = None) -> None:
        self._model, self._runtime = model, runtime
        self._metrics = RecognitionMetrics(model.head.out_features)
        self._broken: dict[int, BrokenClip] = {}
        self._failure: str | None = None

    @torch.no_grad()
    def add(self, batch: VideoBatch) -> None:
        """Score a batch of this process.

        Raises:
            TrainingError: scores that are NaN or infinite; the message names the records. With several processes
                `result` raises it, in all of them: one that left alone would let the others wait for it.
        """
        self._broken.update((clip.index, clip) for clip in batch.broken)
        if not len(batch):
            return
        there = batch.to(self._model.head.weight.device, non_blocking=True)
        with nullcontext() if self._runtime is None else self._runtime.autocast():
            logits_BK = self._model(there.clip_BTCHW, *(() if batch.stored is None else (batch.stored,)))
        try:
            self._metrics.update(logits_BK.float().cpu(), batch.labels_B, batch.indices_B, batch.views_B)
        except ValueError as error:
            if self._runtime is None or self._runtime.world_size == 1:
                raise TrainingError(f"evaluation stopped: {error}") from error
            self._failure = self._failure or str(error)

    def result(self) -> EvaluationResult:
        """The metrics of all that was added, in all processes.

        Raises:
            DataError: no video could be read.
            TrainingError: scores that are NaN or infinite, in any of the processes.
        """
        if self._runtime is not None:
            failures = self._runtime.gather_json(self._failure)
            for rank, failure in enumerate(failures):
                if failure is not None:
                    raise TrainingError(f"evaluation stopped: {failure} (process {rank} of {len(failures)})")
        metrics, broken = _merged(self._metrics, self._broken, self._runtime)
        listed = tuple(broken[index] for index in sorted(broken))
        scores = metrics.scores()
        if not scores:
            example = f"; for example {listed[0].path}: {listed[0].reason}" if listed else ""
            raise DataError(f"no video could be evaluated: {len(listed)} are broken{example}")
        indices_V = torch.tensor(list(scores))
        labels_V = torch.tensor([metrics.labels()[index] for index in scores])
        scores_VK = torch.stack(list(scores.values()))
        own_V = scores_VK.gather(1, labels_V[:, None]).squeeze(1)
        # a score can underflow to 0; the smallest normal number keeps the mean finite
        loss = -own_V.clamp_min(torch.finfo(own_V.dtype).tiny).log().mean()
        return EvaluationResult(metrics.compute(), float(loss), indices_V, labels_V, scores_VK, listed)


def in_step(
    loader: Iterable[Batch],
    runtime: Runtime | None,
    should_stop: Callable[[], bool] | None,
    *,
    idle: Callable[[], None],
) -> Iterator[Batch]:
    """The batches of this process, going round by round with the others, so that all agree when to stop.

    `idle` is called in rounds in which others have clips and this process has none.

    Raises:
        EvaluationStopped: `should_stop` said so in one of the processes.
    """
    batches = iter(loader)
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError:
            if should_stop is None or not should_stop():
                raise
            batch = None  # the signal that asks to stop has ended the loader's workers
        wanted = float(should_stop is not None and should_stop())
        clips = 0 if batch is None else len(batch)
        here = [batch is not None, wanted, clips]
        more, stop, everywhere = map(float, here) if runtime is None else runtime.sum(here)
        if stop:
            raise EvaluationStopped
        if not more:
            return
        if everywhere and not clips:
            idle()
        if batch is not None:
            yield batch


def _merged(
    metrics: RecognitionMetrics, broken: dict[int, BrokenClip], runtime: Runtime | None
) -> tuple[RecognitionMetrics, dict[int, BrokenClip]]:
    if runtime is None or runtime.world_size == 1:
        return metrics, broken
    state = metrics.state()
    gathered = {name: runtime.gather(state[name]) for name in METRIC_STATE}
    merged = RecognitionMetrics(metrics.num_classes)
    for rank in range(runtime.world_size):
        merged.merge(RecognitionMetrics.from_state({name: gathered[name][rank] for name in METRIC_STATE}))
    return merged, gather_broken(broken, runtime)


def gather_broken(broken: dict[int, BrokenClip], runtime: Runtime) -> dict[int, BrokenClip]:
    """The broken records of all processes, by their numbers."""
    everywhere: dict[int, BrokenClip] = {}
    for part in runtime.gather_json([[clip.index, clip.path, clip.reason] for clip in broken.values()]):
        everywhere.update((index, BrokenClip(index, path, reason)) for index, path, reason in part)
    return everywhere


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    """Inside, the model is in eval mode; afterwards as before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
