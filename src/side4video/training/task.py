"""What the training loop asks of a task, and the two tasks chosen by their models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from side4video.config.schema import RunSettings
from side4video.tasks.base import TrainedModel
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.optim import ParameterGroup
from side4video.training.recognition_task import RecognitionTask
from side4video.training.retrieval_task import RetrievalTask
from side4video.training.runtime import Runtime
from side4video.training.values import Place, Validation


class TrainingTask(Protocol):
    """One task on one process: its model on the device, the optimiser, a gradient, a validation.

    `metric` is what decides which weights are best, `validation_names` what a validation finds, `counts_right` whether
    a batch counts the clips called right. `class_names` and `text` go into the run folder. `wrapped_optimizer` is the
    one to step; `optimizer` holds the state.
    """

    @property
    def metric(self) -> str: ...
    @property
    def validation_names(self) -> tuple[str, ...]: ...
    @property
    def counts_right(self) -> bool: ...
    @property
    def groups(self) -> list[ParameterGroup]: ...
    @property
    def optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def wrapped_optimizer(self) -> Any: ...

    @property
    def model(self) -> TrainedModel:
        """What is trained."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, for tasks that have them."""
        ...

    @property
    def text(self) -> dict[str, Any] | None:
        """Identity of a frozen text tower, for tasks that have one."""
        ...

    def rate(self, epoch: int, batch: int) -> float:
        """The learning rate when this batch (both count from 0) completes an optimiser step."""
        ...

    def backward(self, batch: Any, clips: float, place: Place) -> Tensor:
        """Add the gradient of a batch.

        `clips` counts those of all processes; 0 when this batch adds nothing, though all processes are here. Returns
        [sum of losses, clips called right, clips] of this process.
        """
        ...

    def before_step(self) -> None:
        """The gradient of a step is complete."""
        ...

    def after_step(self) -> None:
        """The optimiser has moved the weights."""
        ...

    def validate(self, loader: Iterable[Any], should_stop: Callable[[], bool]) -> Validation:
        """Judge the present weights; every process gets the whole result.

        Raises:
            EvaluationStopped: `should_stop` said so in one of the processes.
        """
        ...


def make_task(settings: RunSettings, model: TrainedModel, runtime: Runtime, *, batches_per_epoch: int) -> TrainingTask:
    """The task of a model, which moves to the runtime's device.

    Raises:
        ConfigError: settings that the task cannot have.
    """
    if isinstance(model, VideoTextModel):
        return RetrievalTask(settings, model, runtime, batches_per_epoch=batches_per_epoch)
    return RecognitionTask(settings, model, runtime, batches_per_epoch=batches_per_epoch)
