"""One sitting of a run: opens or restores it, keeps its folder up to date, and closes it however it ends.

Only the first process writes. Whether a write worked is agreed on by all, so that they stop together when it did not.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from side4video.config.schema import RunSettings
from side4video.errors import CheckpointError, ConfigError, Side4VideoError, TrainingError
from side4video.tasks.base import TrainedModel
from side4video.training.broken import BrokenLog
from side4video.training.checkpoint import (
    BROKEN,
    METRICS,
    RUN,
    STATE_FOLDER,
    RunFolder,
    check_same_settings,
    writing,
)
from side4video.training.ema import MovingAverage
from side4video.training.logging import STEP_COLUMNS, CurveLogger, open_loggers
from side4video.training.provenance import provenance
from side4video.training.runtime import Runtime
from side4video.training.state import (
    STATE_VERSION,
    Progression,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
    restore_weights,
)
from side4video.training.task import TrainingTask

logger = logging.getLogger(__name__)


@dataclass
class Trainee:
    """Everything that training changes; the random state belongs to the process."""

    task: TrainingTask
    ema: MovingAverage | None
    broken: BrokenLog
    at: Progression

    @property
    def model(self) -> TrainedModel:
        """What is trained."""
        return self.task.model


class Session:
    """One sitting. `fingerprint` is of the training data; `failure` is an error that the others must still hear of."""

    def __init__(
        self, settings: RunSettings, trainee: Trainee, folder: RunFolder, runtime: Runtime, *, fingerprint: str
    ) -> None:
        self.settings, self.trainee, self.folder, self.runtime = settings, trainee, folder, runtime
        self.fingerprint = fingerprint
        self.failure: TrainingError | None = None
        self._loggers: list[CurveLogger] = []
        self._provenance = provenance() if runtime.is_main else {}
        self._mark = time.monotonic()

    def open(self, *, resume: bool) -> bool:
        """Begin a run, or restore it; whether something was restored.

        Raises:
            ConfigError: the folder already holds a run, or the settings are not those of the run to resume.
            CheckpointError: nothing to resume, or a state that is damaged or does not fit.
            TrainingError: the folder cannot be written.
        """
        try:
            restored = self._restore() if resume else self._refuse_second_run()
        except Side4VideoError as error:
            self._stop(error)  # every process has found the same
        self.runtime.sum([0.0])  # nobody writes before everybody has looked
        self.on_main(lambda: self._begin(restored=restored))
        self._mark = time.monotonic()
        return restored

    def save(self) -> None:
        """Write the resume state; all processes take part, between two steps.

        Raises:
            TrainingError: weights that are not finite, or a disk that cannot be written; the last state is intact.
        """
        self.tick()
        trainee = self.trainee
        weights = trainee.model.trainable_state()
        self._check_finite(weights)
        tensors = {"weights": weights, "optimizer": optimizer_tensors(trainee.task.optimizer, trainee.task.groups)}
        if trainee.ema is not None:
            tensors["ema"] = trainee.ema.averages
        scaler = self.runtime.scaler
        values = {
            "version": STATE_VERSION,
            "processes": self.runtime.world_size,
            "clips": self.settings.data.batch_size * self.runtime.world_size,
            "data": self.fingerprint,
            "progression": trainee.at.as_json(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "broken": trainee.broken.as_json(),
            "random": self.runtime.gather_json(random_state(self.runtime.device)),
        }
        self.on_main(lambda: self._write_state(tensors, values))

    def save_weights(self, name: str) -> None:
        """Write the model's present weights under `name`.

        Raises:
            TrainingError: the disk cannot be written.
        """
        state = self.trainee.model.trainable_state()
        self.on_main(lambda: self.folder.save_weights(state, name))

    def save_summaries(self) -> None:
        """Write the history and the list of broken videos.

        Raises:
            TrainingError: the disk cannot be written.
        """
        at = self.trainee.at
        best = {"epoch": at.best_epoch, f"val_{self.trainee.task.metric}": at.best_top1}
        self.on_main(lambda: self.folder.save_json(METRICS, {"best": best, "history": at.history}))
        self.save_broken()

    def save_broken(self) -> None:
        """Write the list of broken videos.

        Raises:
            TrainingError: the disk cannot be written.
        """
        self.on_main(lambda: self.folder.save_json(BROKEN, self.trainee.broken.as_json()))

    def log(self, values: dict[str, Any]) -> None:
        """Add a point to the curves; a failure is kept for the next time the processes speak."""
        try:
            with writing(self.folder.path):
                for curve in self._loggers:
                    curve.log(values, self.trainee.at.step)
        except TrainingError as error:
            self.failure = error

    def close(self, status: str) -> None:
        """Let go of the logs and note how it ended; an error on its way out is not replaced by another.

        Raises:
            TrainingError: after a finished run, when the disk cannot be written.
        """
        if not self.runtime.is_main:
            return
        with nullcontext() if status == "finished" else suppress(TrainingError), writing(self.folder.path):
            for curve in self._loggers:
                curve.close()
            self._write_run(status)

    def tick(self) -> None:
        """Add the time since the last tick to the clocks."""
        now = time.monotonic()
        self.trainee.at.seconds += now - self._mark
        self.trainee.at.epoch_seconds += now - self._mark
        self._mark = now

    def on_main(self, action: Callable[[], object]) -> None:
        """Do it in the first process; when that fails, all stop."""
        if self.runtime.is_main:
            try:
                action()
            except TrainingError as error:
                self.failure = error
        (failed,) = self.runtime.sum([self.failure is not None])
        if failed:
            self.fail(self.failure)

    def fail(self, error: TrainingError | None) -> NoReturn:
        """All processes are here: the first speaks, the others end quietly, so that none is killed while it writes.

        Raises:
            TrainingError: in the first process.
            SystemExit: with 0, in the others.
        """
        self._stop(error or TrainingError("another process had to stop"))

    def kept(self) -> str:
        """A clause that says what a stopped run can go on from."""
        newest = self.folder.newest_state()
        if newest is None:
            return "nothing had been saved yet"
        return f"the last good state is kept in {newest}"

    def _stop(self, error: Side4VideoError) -> NoReturn:
        if self.runtime.is_main:
            raise error
        raise SystemExit(0)

    def _refuse_second_run(self) -> bool:
        if self.folder.holds_run():
            raise ConfigError(f"{self.folder.path} already holds a run: resume it, or choose another folder")
        return False

    def _begin(self, *, restored: bool) -> None:
        task, folder = self.trainee.task, self.folder
        if not restored:
            # what a run without settings left behind is nobody's
            shutil.rmtree(folder.path / STATE_FOLDER, ignore_errors=True)
        folder.begin(self.settings, task.model.backbone, task.class_names, text=task.text)
        at = self.trainee.at
        with writing(folder.path):
            self._loggers = open_loggers(
                self.settings.train.loggers,
                folder.path,
                step=at.step,
                epochs=len(at.history),
                step_columns=[name for name in STEP_COLUMNS if task.counts_right or name != "top1"],
                epoch_columns=[f"val_{name}" for name in task.validation_names],
            )
        self._write_run("running")

    def _restore(self) -> bool:
        if not self.folder.holds_run():
            raise CheckpointError(f"nothing to resume: {self.folder.path} holds no run")
        saved = self.folder.load_state()
        # the batch of one process may change with their number: what counts is the batch of all
        check_same_settings(self.folder.settings(), self.settings, but={"data.batch_size"} if saved else ())
        self.folder.check_backbone(self.trainee.model.backbone)
        if (text := self.trainee.task.text) is not None:
            self.folder.check_text(text)
        if saved is None:
            logger.warning("%s was stopped before anything was saved: starting from the beginning", self.folder.path)
            return False
        values, tensors, trainee = saved.values, saved.tensors, self.trainee
        if values.get("version") != STATE_VERSION:
            raise CheckpointError(f"{saved.path}: of another version of side4video, or damaged; start anew")
        self._check_processes(values)
        if values["data"] != self.fingerprint:
            raise CheckpointError(f"{saved.path}: the training data has changed since it was saved; start anew")
        missing = {"weights", "optimizer", *(["ema"] if trainee.ema else [])} - tensors.keys()
        if missing:
            raise CheckpointError(f"{saved.path}: damaged: no {', '.join(sorted(missing))}")
        restore_weights(trainee.model, tensors["weights"])
        restore_optimizer(trainee.task.optimizer, trainee.task.groups, tensors["optimizer"])
        if trainee.ema is not None:
            trainee.ema.restore(tensors["ema"])
        if self.runtime.scaler is not None:
            self.runtime.scaler.load_state_dict(values["scaler"])
        trainee.at = Progression.from_json(values["progression"])
        trainee.broken.restore(values["broken"])
        if self.runtime.rank < len(values["random"]):
            restore_random_state(values["random"][self.runtime.rank], self.runtime.device)
        return True

    def _check_processes(self, values: dict[str, Any]) -> None:
        """Whether the clips of a step are those of the saved run: another number of processes may share them out."""
        before, now, size = values["processes"], self.runtime.world_size, self.settings.data.batch_size
        clips = values.get("clips", self.folder.settings().data.batch_size * before)
        if size * now != clips:
            fitting = f"set data.batch_size={clips // now}" if clips % now == 0 else f"{now} does not divide {clips}"
            raise ConfigError(
                f"cannot resume with other settings: the run has {clips} clips a step, over {before} "
                f"process{'es' * (before != 1)}; got data.batch_size={size} on {now}, which are {size * now}. "
                f"With {now} process{'es' * (now != 1)}: {fitting}"
            )
        if before != now and self.runtime.is_main:
            norm = "" if self.settings.train.sync_bn or self.settings.side.norm == "layer" else "; batch norm now sees "
            norm += f"{size} clips at a time, not {clips // before}" if norm else ""
            logger.warning(
                "resuming on %d processes in place of %d: every step has the same clips%s", now, before, norm
            )

    def _check_finite(self, weights: dict[str, Tensor]) -> None:
        bad = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
        (anywhere,) = self.runtime.sum([bool(bad)])
        if anywhere:
            names = ", ".join(bad[:3])
            step = self.trainee.at.step
            self.fail(TrainingError(f"weights became NaN or infinite by step {step}: {names}; {self.kept()}"))

    def _write_state(self, tensors: dict[str, dict[str, Tensor]], values: dict[str, Any]) -> None:
        with writing(self.folder.path):
            # the curves reach the disk first: a state never stands beyond them
            for curve in self._loggers:
                curve.flush()
        self.folder.save_state(self.trainee.at.step, tensors, values)

    def _write_run(self, status: str) -> None:
        at, model = self.trainee.at, self.trainee.model
        self.folder.save_json(
            RUN,
            {
                "status": status,
                "epochs": at.epoch,
                "steps": at.step,
                "train_videos": self.trainee.broken.num_videos,
                "seconds": round(at.seconds, 3),
                "seed": self.settings.train.seed,
                "processes": self.runtime.world_size,
                "precision": self.runtime.precision,
                "backbone_precision": str(model.backbone.precision).removeprefix("torch."),
                **self._provenance,
            },
        )
