"""The optimiser: which parameter trains at which rate and decay, and what the rate is at every step.

The rate is a pure function of the position in training, so that a resumed run needs no scheduler state. Two readings of
the same curve exist: `step` follows it at every optimiser step; `official` looks at it only at iterations 0, 9, 19, ...
of an epoch, as the released code does (its first iterations run at exactly 0).

Source: Side4Video, arXiv:2311.15769, training details, and the released code's optimiser groups. We differ in the
default: the rate moves with every step, taken at the middle of the step, so that no step is spent at rate 0.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from side4video.config.groups import OptimSettings
from side4video.tasks.recognition import VideoClassifier

OFFICIAL_PERIOD = 10
MILESTONE_FACTOR = 0.1


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a rate (`lr_scale` times the schedule's) and a weight decay."""

    name: str
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    lr_scale: float
    weight_decay: float


def named_trainables(model: VideoClassifier) -> Iterator[tuple[str, nn.Parameter]]:
    """What trains, under the names of `trainable_state`: `side.*`, then `head.*`."""
    for part, module in (("side", model.side), ("head", model.head)):
        for name, parameter in module.named_parameters():
            yield f"{part}.{name}", parameter


def parameter_groups(model: VideoClassifier, settings: OptimSettings) -> list[ParameterGroup]:
    """The paper's groups: side network at `lr * side_lr_ratio`, batch norms of the side network and the head at `lr`.

    With `schedule_every="official"` the rate of the batch norms is divided by the accumulation steps, as in the
    released code. With `decay_norm_and_bias` off each group is split, and its vectors (biases, norms) and position
    tables are not decayed. Groups without parameters are left out.
    """
    batch_norms = {
        id(p) for m in model.side.modules() if isinstance(m, _BatchNorm) for p in m.parameters(recurse=False)
    }
    norm_scale = 1 / settings.accumulate if settings.schedule_every == "official" else 1.0
    scales = {"side": settings.side_lr_ratio, "side batch norms": norm_scale, "head": 1.0}
    members: dict[tuple[str, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named_trainables(model):
        kind = "side batch norms" if id(parameter) in batch_norms else name.partition(".")[0]
        decays = settings.decay_norm_and_bias or not _is_norm_bias_or_position(name, parameter)
        members.setdefault((kind, decays), []).append((name, parameter))
    return [
        ParameterGroup(
            name=kind if decays else f"{kind}, not decayed",
            names=tuple(name for name, _ in members[kind, decays]),
            parameters=tuple(parameter for _, parameter in members[kind, decays]),
            lr_scale=scales[kind],
            weight_decay=settings.weight_decay if decays else 0.0,
        )
        for kind in scales
        for decays in (True, False)
        if (kind, decays) in members
    ]


def make_optimizer(groups: list[ParameterGroup], settings: OptimSettings, *, fused: bool) -> torch.optim.AdamW:
    """AdamW over the groups, at rate 0 until `set_rate` gives it one."""
    return torch.optim.AdamW(
        [
            {
                "params": list(group.parameters),
                "weight_decay": group.weight_decay,
                "lr_scale": group.lr_scale,
                "lr": 0.0,
            }
            for group in groups
        ],
        betas=settings.betas,
        fused=fused,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate of the head at every point of training.

    `batches_per_epoch` counts the batches of one process; an optimiser step takes `settings.accumulate` of them, the
    last one of an epoch what is left.
    """

    settings: OptimSettings
    batches_per_epoch: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return math.ceil(self.batches_per_epoch / self.settings.accumulate)

    def rate(self, epoch: int, batch: int) -> float:
        """The rate in force when the batch `batch` of epoch `epoch` (both from 0) completes an optimiser step."""
        if self.settings.schedule_every == "official":
            return self.curve(epoch + _official_iteration(batch) / self.batches_per_epoch)
        step = batch // self.settings.accumulate
        return self.curve(epoch + (step + 0.5) / self.steps_per_epoch)

    def curve(self, epochs: float) -> float:
        """The rate after that many (fractional) epochs: linear warm-up from 0, then the schedule's shape."""
        settings = self.settings
        if epochs < settings.warmup_epochs:
            return settings.lr * epochs / settings.warmup_epochs
        if settings.schedule == "multistep":
            return settings.lr * MILESTONE_FACTOR ** bisect_right(sorted(settings.milestones), epochs)
        if settings.schedule == "cosine":
            span = max(settings.epochs - settings.warmup_epochs, 1e-12)
            return settings.lr * (1 + math.cos(math.pi * min(1.0, (epochs - settings.warmup_epochs) / span))) / 2
        return settings.lr


def _official_iteration(iteration: int) -> int:
    """The iteration at which the released code last looked at the curve: 0, 9, 19, 29, ..."""
    return max(0, (iteration + 1) // OFFICIAL_PERIOD * OFFICIAL_PERIOD - 1)


def _is_norm_bias_or_position(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() < 2 or name.rpartition(".")[2] == "position"
