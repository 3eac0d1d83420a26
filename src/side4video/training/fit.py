"""Training one model: an epoch is batches, then validation; a step is one or more batches. The steps are in `loop`."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

from side4video.config.schema import RunSettings
from side4video.tasks.base import TrainedModel
from side4video.training.checkpoint import RunFolder
from side4video.training.evaluate import EvaluationStopped
from side4video.training.loop import TrainingLoop, numbered_batches
from side4video.training.progress import NoProgress, ProgressView
from side4video.training.runtime import Runtime, start
from side4video.training.signals import StopSignals
from side4video.training.state import seeded
from side4video.training.sync_norm import synced_batch_norms
from side4video.training.values import FitResult, TrainingData


def fit(
    settings: RunSettings,
    model: TrainedModel,
    data: TrainingData,
    out: str | Path,
    *,
    resume: bool = False,
    runtime: Runtime | None = None,
    progress: ProgressView | None = None,
) -> FitResult:
    """Train all of a model that trains, and leave a run folder.

    Afterwards the model holds what `side.safetensors` holds: the best weights by validation top-1, or R@1 from text to
    video in retrieval (averaged ones when EMA is on), or the last ones without validation. With `resume` a run goes on
    from its last saved state, to the same weights as if it had never stopped. The global random state is as it was
    before. Ctrl-C and SIGTERM save first.

    Raises:
        ConfigError: the folder already holds a run, or the settings are not those of the run to resume.
        CheckpointError: there is nothing to resume, or the state is damaged or of another data set, backbone or
            number of processes.
        TrainingError: the loss is NaN or infinite, too many videos are broken, or the disk cannot be written.
        KeyboardInterrupt: on Ctrl-C, after saving; the message says how to go on.
        SystemExit: 143 on SIGTERM, after saving. Processes other than the first exit with 0 when all stop together.
    """
    runtime = runtime or start(settings.train)
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        stack.enter_context(seeded(settings.train.seed + runtime.rank, runtime.device))
        if settings.train.sync_bn and runtime.world_size > 1:
            stack.enter_context(synced_batch_norms(model.side, native=runtime.device.type == "cuda"))
        loop = TrainingLoop(settings, model, data, RunFolder(out), runtime, signals, progress or NoProgress())
        return _run(loop, resume=resume)


def _run(loop: TrainingLoop, *, resume: bool) -> FitResult:
    loop.open(resume=resume)
    status = "failed"
    try:
        while not loop.at.finished:
            _train_epoch(loop)
        status = "finished"
    except (KeyboardInterrupt, SystemExit):
        status = "stopped"
        raise
    finally:
        loop.close(status)
    loop.warn_of_broken()
    return loop.result()


def _train_epoch(loop: TrainingLoop) -> None:
    at, data, signals = loop.at, loop.data, loop.signals
    loop.start_epoch()
    # inside a step there is nothing to save: what was saved last stays
    stopped = lambda index: signals.received is not None and index == at.batch  # noqa: E731
    if at.batch < data.batches_per_epoch:
        for index, batch in numbered_batches(data, at.epoch, at.batch, stopped):
            loop.take(index, batch)
    loop.end_batches()
    try:
        with loop.judged():
            result = None
            if loop.due and data.val_loader is not None:
                loop.progress.validate(at.epoch)
                result = loop.task.validate(data.val_loader, lambda: signals.received is not None)
            loop.keep_weights(result)
    except EvaluationStopped:
        (interrupts,) = loop.runtime.sum([signals.received == signal.SIGINT])
        loop.leave(interrupted=bool(interrupts))
    loop.close_epoch(result)
