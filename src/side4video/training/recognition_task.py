"""Training a classifier: mixing, cross entropy, AdamW, top-1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from side4video.batch import VideoBatch
from side4video.config.schema import RunSettings
from side4video.tasks.mixing import Mixer
from side4video.tasks.recognition import VideoClassifier
from side4video.training.evaluate import EvaluationResult, evaluate
from side4video.training.optim import Schedule, make_optimizer, parameter_groups
from side4video.training.runtime import Runtime
from side4video.training.step import TrainStep, batch_generator
from side4video.training.values import Place, Validation


class RecognitionTask:
    """A `TrainingTask`; the runtime wraps the step, so that gradients are averaged while they are computed."""

    metric = "top1"
    validation_names = ("loss", "top1", "top5", "mean_class")
    counts_right = True

    def __init__(
        self, settings: RunSettings, model: VideoClassifier, runtime: Runtime, *, batches_per_epoch: int
    ) -> None:
        self.model, self.runtime = model, runtime
        self.optim, self.seed = settings.optim, settings.train.seed
        self.mixer = Mixer(model.head.out_features, mixup=settings.data.mixup, cutmix=settings.data.cutmix)
        self.schedule = Schedule(self.optim, batches_per_epoch)
        self.groups = parameter_groups(model, self.optim)
        # a fused step unscales fp16 gradients by itself, too late for clipping them
        fused = runtime.device.type in ("cuda", "cpu") and not (runtime.scaler and self.optim.clip_grad_norm)
        self.optimizer = make_optimizer(self.groups, self.optim, fused=fused)
        step = TrainStep(model, smoothing=self.optim.label_smoothing)
        self.step, self.wrapped_optimizer = runtime.setup(step, self.optimizer, model.backbone)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; numbers where the model has none."""
        return self.model.class_names or tuple(str(number) for number in range(self.model.head.out_features))

    @property
    def text(self) -> dict[str, Any] | None:
        """None: a classifier has no text tower."""
        return None

    def rate(self, epoch: int, batch: int) -> float:
        """The rate of the head at this place."""
        return self.schedule.rate(epoch, batch)

    def backward(self, batch: VideoBatch, clips: float, place: Place) -> Tensor:
        """Add the gradient of the mean loss over the clips of all processes."""
        clip_BTCHW = labels_B = labels_BK = stored = None
        size = len(batch)
        if clips and size:
            batch = batch.to(self.runtime.device, non_blocking=True)
            batch = self.mixer(batch, batch_generator(self.seed, place.epoch, place.index, self.runtime.rank))
            clip_BTCHW, labels_B, labels_BK = batch.clip_BTCHW, batch.labels_B, batch.labels_BK
            stored = batch.stored
        # the wrapper averages over processes; this makes it the mean over clips
        share = size * self.runtime.world_size / max(clips, 1.0) / place.in_step
        with self.runtime.no_sync(self.step, enabled=not place.ends):
            others_run = bool(clips) and batch.stored is None
            loss, stats = self.step(clip_BTCHW, labels_B, labels_BK, share, stored, others_run=others_run)
            self.runtime.fabric.backward(loss)
        return stats

    def before_step(self) -> None:
        """Clip the gradient, if it is to be clipped."""
        if self.optim.clip_grad_norm is not None:
            self.runtime.fabric.clip_gradients(
                self.step, self.wrapped_optimizer, max_norm=self.optim.clip_grad_norm, error_if_nonfinite=False
            )

    def after_step(self) -> None:
        """Nothing."""

    def validate(self, loader: Iterable[VideoBatch], should_stop: Callable[[], bool]) -> Validation:
        """Top-1, and what else `evaluate` finds."""
        return as_validation(evaluate(self.model, loader, runtime=self.runtime, should_stop=should_stop))


def as_validation(result: EvaluationResult) -> Validation:
    """What an evaluation means to the training loop."""
    report = result.report
    values = {"top1": report.top1, "top5": report.top5, "mean_class": report.mean_class}
    return Validation(report.top1, result.loss, {"loss": result.loss, **values}, result.broken)
