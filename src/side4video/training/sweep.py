"""Several side networks trained at once over one frozen forward pass, each as if it were alone.

Each batch goes through the backbone once, as deep as any of them taps; the tapped tokens are kept until every side
network has taken its step on them. Optimiser, schedule, averages, random numbers and run folder are each one's own, and
so is its arithmetic: the weights are to the bit those of a training alone, as long as the backbone gives the same bits
to the same clips. One that fails (a loss that is NaN) leaves the others alone.

Source: ours; it follows from the architecture, in which no gradient enters the backbone.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch

from side4video.batch import CaptionBatch, StoredTokens, VideoBatch
from side4video.config.schema import RunSettings
from side4video.errors import Side4VideoError, TrainingError
from side4video.tasks.mixing import Mixer
from side4video.tasks.recognition import VideoClassifier
from side4video.training.checkpoint import RunFolder
from side4video.training.evaluate import EvaluationStopped, Scorer, eval_mode, in_step
from side4video.training.loop import TrainingLoop, numbered_batches, stop
from side4video.training.recognition_task import as_validation
from side4video.training.runtime import Runtime
from side4video.training.signals import StopSignals
from side4video.training.state import RandomStream
from side4video.training.step import batch_generator
from side4video.training.sweep_progress import SweepProgress
from side4video.training.sync_norm import synced_batch_norms
from side4video.training.values import FitResult, TrainingData, Validation

logger = logging.getLogger(__name__)

NO_TOKENS = StoredTokens((), (), (), torch.float32, num_prefix=0, has_class_token=False, grid_YX=(0, 0))
"""Of a batch without clips: its frozen pass is over."""


@dataclass(frozen=True)
class SweepMember:
    """One of the models: its name, its settings as a run stores them, and its run folder."""

    name: str
    settings: RunSettings
    model: VideoClassifier
    out: Path


@dataclass(frozen=True)
class MemberResult:
    """How one of them went: `fit`, or the `error` that stopped it."""

    name: str
    fit: FitResult | None
    error: str | None = None


def fit_together(
    members: Sequence[SweepMember],
    data: TrainingData,
    *,
    runtime: Runtime,
    resume: bool = False,
    progress: SweepProgress | None = None,
) -> list[MemberResult]:
    """Train models that share one backbone object, the data and the seed; each leaves a run folder, as `fit` does.

    With `resume` each goes on from its own last saved state, or begins where it has none.

    Raises:
        ConfigError, CheckpointError: as `fit`, of any of them.
        TrainingError: all of them have failed; the message is the first one's.
        KeyboardInterrupt, SystemExit: as `fit`, after all have been saved.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        for member in members:
            if member.settings.train.sync_bn and runtime.world_size > 1:
                stack.enter_context(synced_batch_norms(member.model.side, native=runtime.device.type == "cuda"))
        return _Group(members, data, runtime, signals, progress or SweepProgress()).run(resume=resume)


class SharedPass:
    """The frozen half of a step: mixes a batch's clips and runs them through the backbone, once for all models.

    Raises:
        ValueError: models that do not share a backbone, or run it over slices of different size.
    """

    def __init__(self, members: Sequence[SweepMember], runtime: Runtime) -> None:
        models = [member.model for member in members]
        first = models[0]
        if any(model.backbone is not first.backbone for model in models):
            raise ValueError("models that train together must share one backbone object")
        if any(model.video.frame_slice != first.video.frame_slice for model in models):
            raise ValueError("models that train together must run the backbone over slices of the same size")
        self._backbone, self._slice, self._runtime = first.backbone, first.video.frame_slice, runtime
        self._taps = sorted({tap for model in models for tap in model.side.taps})
        settings = members[0].settings
        self._seed = settings.train.seed
        self._mixer = Mixer(first.head.out_features, mixup=settings.data.mixup, cutmix=settings.data.cutmix)
        # where every model keeps its tokens in host memory, they wait there between the models too
        self._away = runtime.device.type == "cuda" and all(m.side.memory in ("lean", "smallest") for m in models)

    def train(self, batch: VideoBatch, epoch: int, index: int) -> VideoBatch:
        """A training batch, mixed, on the device, with its frozen tokens; without clips, with none.

        Where frozen blocks are spread over processes, all of them come here with each batch.
        """
        if self._backbone.shard > 1 and batch.stored is None:
            (clips,) = self._runtime.sum([len(batch)])
            if clips and not len(batch):
                self.take_part()
        if not len(batch):
            return replace(batch, stored=NO_TOKENS)
        batch = batch.to(self._runtime.device, non_blocking=True)
        batch = self._mixer(batch, batch_generator(self._seed, epoch, index, self._runtime.rank))
        return self.run(batch)

    def take_part(self) -> None:
        """For a process without clips while others have some: see `FrozenBackbone.take_part`."""
        self._backbone.take_part(self._taps)

    def run(self, batch: VideoBatch) -> VideoBatch:
        """A batch on the device with its frozen tokens; as it is when it has some."""
        if not len(batch) or batch.stored is not None:
            return batch
        batch = batch.to(self._runtime.device, non_blocking=True)
        layers = list(self._backbone.stream(batch.clip_BTCHW, self._taps, frame_slice=self._slice))
        tokens = [layer.tokens_BTAD for layer in layers]
        stored = StoredTokens(
            layers=tuple(layer.layer for layer in layers),
            tokens=tuple(part.cpu().pin_memory() for part in tokens) if self._away else tuple(tokens),
            scales=(),
            precision=tokens[0].dtype,
            num_prefix=layers[0].num_prefix,
            has_class_token=layers[0].has_class_token,
            grid_YX=layers[0].grid_YX,
        )
        return replace(batch, stored=stored)


class _Runner:
    """One member on its way."""

    def __init__(self, member: SweepMember, data: TrainingData, runtime: Runtime, progress: SweepProgress) -> None:
        self.member = member
        self.random = RandomStream(member.settings.train.seed + runtime.rank, runtime.device)
        with self.random:
            # its signals are never received: all stop together
            self.loop = TrainingLoop(
                member.settings,
                member.model,
                data,
                RunFolder(member.out),
                runtime,
                StopSignals(),
                progress.member(member.name),
            )
        self.first = 0
        self.is_open = False
        self.error: str | None = None

    @property
    def goes_on(self) -> bool:
        return self.error is None and not self.loop.at.finished

    def open(self, *, resume: bool) -> None:
        with self.random:
            self.loop.open(resume=resume and RunFolder(self.member.out).holds_run())
        self.is_open = True

    def close(self, status: str) -> None:
        if self.is_open:
            self.is_open = False
            self.loop.close(status)


class _Group:
    def __init__(
        self,
        members: Sequence[SweepMember],
        data: TrainingData,
        runtime: Runtime,
        signals: StopSignals,
        progress: SweepProgress,
    ) -> None:
        self.data, self.runtime, self.signals, self.progress = data, runtime, signals, progress
        self.shared = SharedPass(members, runtime)
        self.runners = [_Runner(member, data, runtime, progress) for member in members]

    def run(self, *, resume: bool) -> list[MemberResult]:
        status = "failed"
        try:
            for runner in self.runners:
                runner.open(resume=resume)
            self._close_finished()
            while live := [runner for runner in self.runners if runner.goes_on]:
                self._epoch(live)
                self._close_finished()
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        finally:
            for runner in self.runners:
                runner.close(status)
            self.progress.close()
        # the data is the same for all: one of them tells
        next(runner for runner in self.runners if runner.error is None).loop.warn_of_broken()
        return [MemberResult(r.member.name, None if r.error else r.loop.result(), r.error) for r in self.runners]

    def _close_finished(self) -> None:
        for runner in self.runners:
            if runner.loop.at.finished:
                runner.close("finished")

    def _epoch(self, live: list[_Runner]) -> None:
        """The epoch of those that are furthest behind; the others wait (after a stop they may stand apart)."""
        epoch = min(runner.loop.at.epoch for runner in live)
        now = [runner for runner in live if runner.loop.at.epoch == epoch]
        for runner in now:
            runner.first = runner.loop.at.batch
            runner.loop.start_epoch()
        first = min(runner.first for runner in now)
        if first < self.data.batches_per_epoch:
            stopped = lambda index: self.signals.received is not None and self._may_stop(now, index)  # noqa: E731
            for index, batch in numbered_batches(self.data, epoch, first, stopped):
                self._stop_if_asked(now, index)
                assert isinstance(batch, VideoBatch)
                self._batch(now, epoch, index, batch)
        now = self._each(now, lambda runner: runner.loop.end_batches())
        self._judge(now)

    def _batch(self, now: list[_Runner], epoch: int, index: int, batch: VideoBatch) -> None:
        takers = [runner for runner in now if runner.error is None and runner.first <= index]
        if takers:
            shared = self.shared.train(batch, epoch, index)
            self._each(takers, lambda runner: runner.loop.take(index, shared))

    def _judge(self, now: list[_Runner]) -> None:
        """Validate together, then write down what each has reached."""
        try:
            with ExitStack() as stack:
                for runner in now:
                    stack.enter_context(runner.loop.judged())
                found = self._validate([runner for runner in now if runner.loop.due])
                now = self._each(now, lambda runner: runner.loop.keep_weights(found.get(runner.member.name)))
        except EvaluationStopped:
            (interrupts,) = self.runtime.sum([self.signals.received == signal.SIGINT])
            self._leave(interrupted=bool(interrupts))
        self._each(now, lambda runner: runner.loop.close_epoch(found.get(runner.member.name)))

    def _validate(self, due: list[_Runner]) -> dict[str, Validation]:
        loader = self.data.val_loader
        if loader is None or not due:
            return {}
        self.progress.validate()
        scorers = {runner.member.name: Scorer(runner.member.model, self.runtime) for runner in due}
        with ExitStack() as stack:
            for runner in due:
                stack.enter_context(eval_mode(runner.member.model))
            idle = self.shared.take_part
            for batch in in_step(loader, self.runtime, lambda: self.signals.received is not None, idle=idle):
                shared = self.shared.run(_video_batch(batch))
                for scorer in scorers.values():
                    scorer.add(shared)
            return {name: as_validation(scorer.result()) for name, scorer in scorers.items()}

    def _each(self, runners: list[_Runner], action: Callable[[_Runner], object]) -> list[_Runner]:
        """Do it with each; those that are still there afterwards.

        Raises:
            TrainingError: none is left.
        """
        for runner in runners:
            if runner.error is not None:
                continue
            try:
                with runner.random:
                    action(runner)
            except TrainingError as error:
                self._lose(runner, error)
            except SystemExit as error:
                # how another process than the first hears of an error: all of them leave this member
                if self.runtime.is_main or error.code:
                    raise
                self._lose(runner, TrainingError("another process had to stop"))
        left = [runner for runner in runners if runner.error is None]
        if not any(runner.error is None for runner in self.runners):
            if not self.runtime.is_main:
                raise SystemExit(0)
            raise TrainingError(f"every variant has failed; {self.runners[0].member.name}: {self.runners[0].error}")
        return left

    def _lose(self, runner: _Runner, error: Side4VideoError) -> None:
        runner.error = str(error)
        runner.close("failed")
        # what it has on the device is of no use to anyone
        runner.loop.optimizer.zero_grad()
        if self.runtime.is_main:
            logger.warning("%s has failed, the others go on: %s", runner.member.name, error)

    def _may_stop(self, now: list[_Runner], index: int) -> bool:
        return all(runner.loop.starts_step(index) for runner in now if runner.error is None and runner.first < index)

    def _stop_if_asked(self, now: list[_Runner], index: int) -> None:
        received = self.signals.received
        interrupts, terminations = self.runtime.sum([received == number for number in (signal.SIGINT, signal.SIGTERM)])
        if (interrupts or terminations) and self._may_stop(now, index):
            self._leave(interrupted=bool(interrupts))

    def _leave(self, *, interrupted: bool) -> NoReturn:
        left = [runner for runner in self.runners if runner.goes_on]
        self._each(left, lambda runner: runner.loop.save())
        folder = self.runners[0].member.out.parent
        hint = f"stopped; everything is saved in {folder}: the same command with --resume goes on from there"
        stop(self.runtime, hint, interrupted=interrupted)


def _video_batch(batch: VideoBatch | CaptionBatch) -> VideoBatch:
    assert isinstance(batch, VideoBatch)
    return batch
