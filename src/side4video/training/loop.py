"""One model in training, batch by batch: what happens to it is here, where the batches come from is its driver's part.

`fit` drives one loop, `sweep` several over the same batches. Three ideas carry it. Everything that changes is in
`Trainee` and the random state, so what is saved between two steps is complete. Whatever depends on the position (sample
order, frames, augmentation, mixing, learning rate) is computed from the position. And all processes decide together:
counts, wishes to stop and failures are summed before each batch, so that none waits for one that has left.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count as counting
from typing import Any, NoReturn

from torch import Tensor

from side4video.batch import BrokenClip, CaptionBatch, VideoBatch
from side4video.config.schema import RunSettings
from side4video.errors import TrainingError
from side4video.tasks.base import TrainedModel
from side4video.training.broken import BrokenLog
from side4video.training.checkpoint import LAST_WEIGHTS, WEIGHTS, RunFolder
from side4video.training.ema import MovingAverage
from side4video.training.optim import set_rate
from side4video.training.progress import NoProgress, ProgressView, StepNews
from side4video.training.runtime import Runtime
from side4video.training.session import Session, Trainee
from side4video.training.signals import StopSignals
from side4video.training.state import Progression, restore_weights
from side4video.training.task import make_task
from side4video.training.values import FitResult, Place, TrainingData, Validation

logger = logging.getLogger(__name__)


@dataclass
class _Pending:
    """What the last batch gave, not yet read from the device."""

    stats: Tensor
    ends_step: bool = False
    lr: float = 0.0


class TrainingLoop:
    """A model on its way through `epochs x batches`.

    Its driver calls `open`; for each epoch `start_epoch`, `take` for every batch from `at.batch` on, `end_batches`,
    then inside `judged` validates and calls `keep_weights`, then `close_epoch`; at last `close` and `result`. With
    `signals` that are never received, stopping is the driver's business.
    """

    def __init__(
        self,
        settings: RunSettings,
        model: TrainedModel,
        data: TrainingData,
        folder: RunFolder,
        runtime: Runtime,
        signals: StopSignals,
        progress: ProgressView,
    ) -> None:
        self.settings, self.optim, self.data = settings, settings.optim, data
        self.model, self.runtime, self.signals = model, runtime, signals
        self.progress = progress if runtime.is_main else NoProgress()
        self.task = make_task(settings, model, runtime, batches_per_epoch=data.batches_per_epoch)
        self.optimizer = self.task.wrapped_optimizer
        if settings.train.compile:
            model.side.compile_blocks()
        ema = MovingAverage(model.trainable_state(), self.optim.ema) if self.optim.ema else None
        broken = BrokenLog(data.num_train, settings.data.broken_tolerance)
        self.trainee = Trainee(self.task, ema, broken, Progression())
        self.session = Session(settings, self.trainee, folder, runtime, fingerprint=data.fingerprint)
        self.pending: _Pending | None = None
        self.step_sums = (0.0, 0.0, 0.0)
        self.contributions = 0
        self.speed_mark, self.speed_clips = time.monotonic(), 0.0

    @property
    def at(self) -> Progression:
        """Where it stands."""
        return self.trainee.at

    @property
    def due(self) -> bool:
        """Whether this epoch ends with a validation."""
        epoch = self.at.epoch + 1
        return epoch % self.settings.train.evaluate_every == 0 or epoch == self.optim.epochs

    def open(self, *, resume: bool) -> None:
        """Begin, or go on where the run in the folder stopped.

        Raises:
            ConfigError, CheckpointError, TrainingError: as `fit`.
        """
        self.session.open(resume=resume)
        batches = self.optim.epochs * self.data.batches_per_epoch
        self.progress.open(self.model, epochs=self.optim.epochs, batches=batches, batches_done=self._batches_done())

    def start_epoch(self) -> None:
        """Before the first batch of an epoch, or of what is left of it."""
        self.model.train()
        self.speed_mark, self.speed_clips = time.monotonic(), 0.0
        self.contributions = 0

    def starts_step(self, index: int) -> bool:
        """Whether the batch `index` is the first of an optimiser step, so that all can be saved before it."""
        return index % self.optim.accumulate == 0

    def take(self, index: int, batch: VideoBatch | CaptionBatch | None) -> None:
        """Train on the batch `index` of this epoch; `None` when the signal to stop has ended the workers.

        Raises:
            TrainingError, KeyboardInterrupt, SystemExit: as `fit`.
        """
        total, accumulate = self.data.batches_per_epoch, self.optim.accumulate
        starts, ends = self.starts_step(index), (index + 1) % accumulate == 0 or index + 1 == total
        clips, empty = self._agree(batch, may_stop=starts)
        assert batch is not None
        self.contributions = 0 if starts else self.contributions
        in_step = min(accumulate, total - index // accumulate * accumulate)
        self.contributions += self._backward(batch, index, clips, empty, ends=ends, in_step=in_step)
        if ends:
            self._step_optimizer(index, self.contributions)

    def end_batches(self) -> None:
        """After the last batch of an epoch."""
        total = self.data.batches_per_epoch
        assert self.at.batch == total, f"the loader gave {self.at.batch} batches, not {total}"
        self._agree(None)
        self.session.tick()

    @contextmanager
    def judged(self) -> Generator[None]:
        """Inside, the model holds the weights that are validated and kept: averaged ones when EMA is on."""
        ema = self.trainee.ema
        with nullcontext() if ema is None else ema.applied_to(self.model.trainable_state()):
            self.runtime.share_buffers(self.model.side)
            yield

    def keep_weights(self, result: Validation | None) -> None:
        """Write the weights of this epoch, and count what the validation says about them."""
        at = self.at
        better = result is not None and self._is_better(result)
        if result is not None:
            self.trainee.broken.val = {clip.index: clip for clip in result.broken}
            higher = at.best_top1 is None or result.score > at.best_top1
            at.without_better = 0 if higher else at.without_better + 1
        if better and result is not None:
            at.best_top1, at.best_loss, at.best_epoch = result.score, result.loss, at.epoch + 1
        if better or at.best_top1 is None:
            self.session.save_weights(WEIGHTS)
        self.session.save_weights(LAST_WEIGHTS)

    def close_epoch(self, result: Validation | None) -> None:
        """Write the history down and save."""
        at, epoch = self.at, self.at.epoch + 1
        row = self._history_row(result)
        if result is not None:
            self.session.log({name: value for name, value in row.items() if name == "epoch" or name.startswith("val_")})
        at.history.append(row)
        at.epoch, at.batch = epoch, 0
        at.loss_sum = at.correct = at.clips = at.epoch_seconds = 0.0
        patience = self.settings.train.early_stop
        at.finished = epoch == self.optim.epochs or (patience is not None and at.without_better >= patience)
        self.save()
        self.session.save_summaries()
        self.progress.epoch(row)

    def close(self, status: str) -> None:
        """Let go of logs and progress; `status` is finished, stopped or failed."""
        self.progress.close()
        self.session.close(status)

    def result(self) -> FitResult:
        """How it went, with the kept weights in the model."""
        self.runtime.sum([0.0])  # nobody reads the weights before they are written
        restore_weights(self.model, self.session.folder.weights())
        self.model.eval()
        at, broken = self.at, self.trainee.broken
        return FitResult(
            out=self.session.folder.path,
            epochs=at.epoch,
            steps=at.step,
            top1=at.best_top1 if self.task.metric == "top1" else None,
            best_epoch=at.best_epoch,
            history=tuple(at.history),
            broken=tuple(clip for _, clip in sorted(broken.train.items())),
            seconds=at.seconds,
            is_main=self.runtime.is_main,
            t2v_r1=at.best_top1 if self.task.metric == "t2v_r1" else None,
        )

    def warn_of_broken(self) -> None:
        """Say how many training videos could not be read, if any."""
        broken = self.trainee.broken
        if broken.train and self.runtime.is_main:
            logger.warning("%d of %d training videos could not be read", len(broken.train), broken.num_videos)

    def save(self) -> None:
        """Write the resume state; between two steps.

        Raises:
            TrainingError: as `fit`.
        """
        self._agree(None)
        self.session.save()

    def leave(self, *, interrupted: bool) -> NoReturn:
        """Save, then stop as the signal wants.

        Raises:
            KeyboardInterrupt, SystemExit: as `fit`.
        """
        self.save()
        stop(self.runtime, self.stopped_hint(), interrupted=interrupted)

    def stopped_hint(self) -> str:
        """Where a stopped run stands and how it goes on."""
        return (
            f"stopped after {self.at.step} steps, in epoch {self.at.epoch + 1} of {self.optim.epochs}; everything is "
            f"saved in {self.session.folder.path}: the same command with --resume goes on from there"
        )

    def _backward(
        self, batch: VideoBatch | CaptionBatch, index: int, clips: float, empty: float, *, ends: bool, in_step: int
    ) -> int:
        """Add this batch's gradient; 1 when any process had clips for it."""
        # batch norm over all processes cannot leave one out: then nobody takes part
        useful = clips > 0 and not (self.settings.train.sync_bn and empty)
        if not useful and not (ends and self.runtime.world_size > 1):
            return 0
        place = Place(self.at.epoch, index, ends=ends, in_step=in_step)
        stats = self.task.backward(batch, clips if useful else 0.0, place)
        self.pending = _Pending(stats)
        return int(useful)

    def _step_optimizer(self, index: int, contributions: int) -> None:
        """One optimiser step on what was added up; none when no clip contributed."""
        self.at.batch = index + 1
        if contributions:
            rate = self.task.rate(self.at.epoch, index)
            set_rate(self.optimizer, rate)
            self.task.before_step()
            self.optimizer.step()
            self.task.after_step()
            self.at.step += 1
            if self.trainee.ema is not None:
                self.trainee.ema.update(self.model.trainable_state(), self.at.step)
            if self.pending is not None:
                self.pending.ends_step, self.pending.lr = True, rate
        self.optimizer.zero_grad()
        every = self.settings.train.save_every_steps
        if contributions and every and self.at.step % every == 0:
            self.save()

    def _is_better(self, result: Validation) -> bool:
        """By score; between equals, by the lower loss."""
        if self.at.best_top1 is None or self.at.best_loss is None:
            return True
        return (result.score, -result.loss) > (self.at.best_top1, -self.at.best_loss)

    def _agree(self, batch: VideoBatch | CaptionBatch | None, *, may_stop: bool = False) -> tuple[float, float]:
        """Sum over the processes what this batch brings and what the last one gave; stop together where needed.

        Returns the clips of this batch in all processes, and how many processes have none.
        """
        unseen = [] if batch is None else self.trainee.broken.unseen(batch.broken)
        pending, self.pending = self.pending, None
        loss_sum, right, count = (0.0, 0.0, 0.0) if pending is None else pending.stats.tolist()
        finite = loss_sum - loss_sum == 0
        size = 0 if batch is None else len(batch)
        here = [size, batch is not None and not size, len(unseen), loss_sum if finite else 0.0, right, count]
        here += [not finite, self.session.failure is not None]
        here += [self.signals.received == number for number in (signal.SIGINT, signal.SIGTERM)]
        sums = self.runtime.sum(here)
        clips, empty, newly_broken, loss_sum, right, count, bad, failed, interrupts, terminations = sums
        if failed:
            self.session.fail(self.session.failure)
        if bad:
            self.session.fail(TrainingError(self._bad_loss(pending)))
        if pending is not None:
            self._account(loss_sum, right, count, pending)
        if newly_broken:
            self._count_broken(unseen)
        if may_stop and (interrupts or terminations):
            self.leave(interrupted=bool(interrupts))
        return clips, empty

    def _account(self, loss_sum: float, right: float, count: float, pending: _Pending) -> None:
        """Add a batch to the sums of its step and its epoch; when it ended the step, tell everyone."""
        at = self.at
        at.loss_sum, at.correct, at.clips = at.loss_sum + loss_sum, at.correct + right, at.clips + count
        self.speed_clips += count
        summed = self.step_sums
        self.step_sums = (summed[0] + loss_sum, summed[1] + right, summed[2] + count)
        if not pending.ends_step:
            return
        loss, top1 = (value / max(self.step_sums[2], 1.0) for value in self.step_sums[:2])
        self.step_sums = (0.0, 0.0, 0.0)
        speed = self.speed_clips / max(time.monotonic() - self.speed_mark, 1e-9)
        counted = {"top1": top1} if self.task.counts_right else {}
        self.session.log({"epoch": at.epoch + 1, "loss": loss, **counted, "lr": pending.lr, "clips_per_second": speed})
        news = StepNews(at.epoch, at.step, self._batches_done(), loss, counted.get("top1"), pending.lr, speed)
        self.progress.step(news)

    def _count_broken(self, unseen: list[BrokenClip]) -> None:
        for part in self.runtime.gather_json([[clip.index, clip.path, clip.reason] for clip in unseen]):
            self.trainee.broken.add(BrokenClip(index, path, reason) for index, path, reason in part)
        try:
            self.trainee.broken.check()
        except TrainingError as error:
            self.session.save_broken()
            self.session.fail(error)

    def _bad_loss(self, pending: _Pending | None) -> str:
        step = self.at.step if pending is not None and pending.ends_step else self.at.step + 1
        return (
            f"the loss became NaN or infinite at step {step} (epoch {self.at.epoch + 1}); {self.session.kept()}. "
            "A lower optim.lr, optim.clip_grad_norm=1 or train.precision=fp32 may help"
        )

    def _history_row(self, result: Validation | None) -> dict[str, Any]:
        at, clips = self.at, max(self.at.clips, 1.0)
        counted = {"train_top1": at.correct / clips} if self.task.counts_right else {}
        found: dict[str, Any] = dict.fromkeys(self.task.validation_names) if result is None else result.values
        return {
            "epoch": at.epoch + 1,
            "step": at.step,
            "lr": self.task.rate(at.epoch, self.data.batches_per_epoch - 1),
            "train_loss": at.loss_sum / clips,
            **counted,
            "clips_per_second": at.clips / max(at.epoch_seconds, 1e-9),
            **{f"val_{name}": value for name, value in found.items()},
        }

    def _batches_done(self) -> int:
        return self.at.epoch * self.data.batches_per_epoch + self.at.batch


def numbered_batches(
    data: TrainingData, epoch: int, first: int, stopped: Callable[[int], bool]
) -> Iterator[tuple[int, VideoBatch | CaptionBatch | None]]:
    """The batches of an epoch from `first` on, numbered.

    `None` when the loader's workers have been ended and `stopped(index)` says that it was the signal to stop.
    """
    data.seek(epoch, first)
    batches = iter(data.train_loader)
    for index in counting(first):
        try:
            batch = next(batches, None)
        except RuntimeError:
            if not stopped(index):
                raise
            yield index, None
            return
        if batch is None:
            return
        yield index, batch


def stop(runtime: Runtime, hint: str, *, interrupted: bool) -> NoReturn:
    """Stop as the signal wants, after all is saved.

    Raises:
        KeyboardInterrupt: on Ctrl-C, with the hint.
        SystemExit: 143 on SIGTERM; 0 in processes other than the first.
    """
    if not runtime.is_main:
        raise SystemExit(0)
    if interrupted:
        raise KeyboardInterrupt(hint)
    logger.warning("SIGTERM: %s", hint)
    raise SystemExit(128 + signal.SIGTERM)
