"""Training a text-video model: the contrastive loss over the batches of all processes, the released optimiser, R@1.

Nothing wraps the model: embeddings are gathered with their gradients, and gradients of weights are averaged at the end
of a step. Every process draws the same weights, and buffers are the first process's whenever they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from side4video.batch import CaptionBatch
from side4video.config.schema import RunSettings
from side4video.errors import ConfigError
from side4video.tasks.contrastive import average_gradients, chunked_contrastive_backward, contrastive_loss
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.evaluate_retrieval import evaluate_retrieval
from side4video.training.retrieval_optim import make_retrieval_optimizer, retrieval_groups, retrieval_rate
from side4video.training.runtime import Runtime
from side4video.training.values import Place, Validation


class RetrievalTask:
    """A `TrainingTask`.

    Raises:
        ConfigError: chunks together with batch norm over processes, which may have different numbers of chunks.
    """

    metric = "t2v_r1"
    validation_names = ("loss", "t2v_r1", "t2v_r5", "t2v_r10", "t2v_median_rank", "v2t_r1")
    counts_right = False

    def __init__(
        self, settings: RunSettings, model: VideoTextModel, runtime: Runtime, *, batches_per_epoch: int
    ) -> None:
        self.model, self.runtime = model.to(runtime.device), runtime
        self.wanted, optim = settings.retrieval, settings.optim
        if self.wanted.chunk_size is not None and settings.train.sync_bn and runtime.world_size > 1:
            raise ConfigError("train.sync_bn does not go with retrieval.chunk_size: set one of them only")
        self.lr, self.accumulate = optim.lr, optim.accumulate
        self.steps_per_epoch = math.ceil(batches_per_epoch / optim.accumulate)
        self.total_steps = self.steps_per_epoch * optim.epochs
        self.groups = retrieval_groups(
            model, weight_decay=optim.weight_decay, pretrained_lr_ratio=self.wanted.pretrained_lr_ratio
        )
        self.optimizer = make_retrieval_optimizer(self.groups, max_norm=optim.clip_grad_norm, betas=optim.betas)
        self.wrapped_optimizer: Any = runtime.setup_optimizer(self.optimizer)

    @property
    def class_names(self) -> None:
        """None: captions are not classes."""
        return

    @property
    def text(self) -> dict[str, Any] | None:
        """Identity of the text tower when it is frozen; a trained one is part of the weights."""
        return None if self.model.train_text else self.model.text_tower.identity()

    def rate(self, epoch: int, batch: int) -> float:
        """The rate of the side network at this place."""
        step = epoch * self.steps_per_epoch + batch // self.accumulate
        return retrieval_rate(step, self.total_steps, lr=self.lr, warmup=self.wanted.warmup)

    def backward(self, batch: CaptionBatch, clips: float, place: Place) -> Tensor:
        """Add the gradient of the contrastive loss over the pairs of all processes."""
        if not clips:
            return torch.zeros(3)

        def backward(loss: Tensor) -> None:
            self.runtime.fabric.backward(loss / place.in_step)

        if not len(batch):
            self.model.take_part()
            loss, size = self._without_clips(batch), 0
            backward(loss)
        else:
            there, size = batch.to(self.runtime.device, non_blocking=True), len(batch)
            parts = (there.clip_BTCHW, there.ids_MQ, there.mask_MQ, there.mask_BT)
            with self.runtime.autocast():
                # one chunk would embed everything twice for nothing
                if self.wanted.chunk_size is not None and self.wanted.chunk_size < size:
                    loss = chunked_contrastive_backward(
                        self.model,
                        *parts,
                        chunk_size=self.wanted.chunk_size,
                        stored=there.stored,
                        gradient=self.wanted.gather_gradient,
                        backward=backward,
                    )
                else:
                    frames_BTE, tokens_BQE = self.model(there.clip_BTCHW, there.ids_MQ, there.stored)
                    loss = self._loss(frames_BTE, tokens_BQE, there.mask_MQ, there.mask_BT)
            if loss.requires_grad:
                backward(loss)
        # the loss is that of all processes: each tells it as often as it has clips
        return torch.stack([loss.detach().float() * size, loss.new_zeros(()), loss.new_tensor(float(size))])

    def before_step(self) -> None:
        """Average over the processes."""
        average_gradients(parameter for group in self.groups for parameter in group.parameters)

    def after_step(self) -> None:
        """Keep the scale of similarities in its range."""
        self.model.clamp_logit_scale()

    def validate(self, loader: Iterable[CaptionBatch], should_stop: Callable[[], bool]) -> Validation:
        """R@1 from text to video, and what else `evaluate_retrieval` finds."""
        result = evaluate_retrieval(self.model, loader, runtime=self.runtime, should_stop=should_stop)
        t2v, v2t = result.report.raw["caption_to_video"], result.report.raw["video_to_caption_groups"]
        found = (result.loss, t2v.r1, t2v.r5, t2v.r10, t2v.median_rank, v2t.r1)
        return Validation(t2v.r1, result.loss, dict(zip(self.validation_names, found, strict=True)), result.broken)

    def _loss(self, frames_BTE: Tensor, tokens_BQE: Tensor, mask_BQ: Tensor, mask_BT: Tensor) -> Tensor:
        return contrastive_loss(
            self.model, frames_BTE, tokens_BQE, mask_BQ, mask_BT, gradient=self.wanted.gather_gradient
        )

    def _without_clips(self, batch: CaptionBatch) -> Tensor:
        """The loss of what the others have: this process takes part in the gathering with no rows."""
        device, width = self.runtime.device, self.model.embed_dim
        frames_BTE = torch.zeros(*batch.mask_BT.shape, width, device=device, requires_grad=True)
        tokens_BQE = torch.zeros(*batch.mask_MQ.shape, width, device=device, requires_grad=True)
        with self.runtime.autocast():
            return self._loss(frames_BTE, tokens_BQE, batch.mask_MQ.to(device), batch.mask_BT.to(device))
