"""The optimiser of retrieval: Adam without bias correction, clipped gradients, and its warm-up cosine.

In each step the gradient's global norm is clipped to 1. (The released code then clips every tensor's norm to 1 again;
none can be larger by then.) Moments are not corrected for their start at zero, and weight decay is added to Adam's
update, so that the rate multiplies both. The side network and what compares captions with videos train at the full
rate; what comes from the image-text model (text tower, last norm and projection of the image tower, `logit_scale`) at
a small share of it.

Source: Side4Video, arXiv:2311.15769, released code, retrieval (its BertAdam and its parameter groups). The rate is a
function of the step, set from outside, where the released optimiser counts steps itself; the curve is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from side4video.tasks.retrieval import VideoTextModel
from side4video.training.optim import ParameterGroup

PRETRAINED_PARTS = ("text.", "frame_head.", "logit_scale")
CLIP_EPS = 1e-6


class RetrievalAdam(torch.optim.Optimizer):
    """The released optimiser. `max_norm` bounds the gradient of all parameters together; `None` switches that off.

    Groups may have their own `lr` and `weight_decay`.

    Raises:
        ValueError: negative rates, decays or eps, betas outside 0..1, or a `max_norm` that is not positive.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_norm: float | None = 1.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0; got {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and less than 1; got {betas}")
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"max_norm must be positive, or None for no clipping; got {max_norm}")
        self.max_norm = max_norm
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient. Gradients stay as they were."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._global_scale()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    grad = parameter.grad if scale is None else parameter.grad * scale
                    self._update(parameter, grad, group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        beta1, beta2 = group["betas"]
        mean: Tensor = state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        square: Tensor = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        update = mean / (square.sqrt() + group["eps"])
        if group["weight_decay"]:
            update = update.add_(parameter, alpha=group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"])

    def _global_scale(self) -> Tensor | None:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.max_norm is None or not grads:
            return None
        norms = torch.stack([torch.linalg.vector_norm(grad).to(grads[0].device) for grad in grads])
        return (self.max_norm / (torch.linalg.vector_norm(norms) + CLIP_EPS)).clamp(max=1.0)


def retrieval_rate(step: int, total_steps: int, *, lr: float = 1e-4, warmup: float = 0.1) -> float:
    """The rate of a step, counted from 0: linear from 0 over the first `warmup` share, then a cosine down to 0.

    As in the released code the cosine starts with training, not with the end of the warm-up, so that the rate drops
    a little there; and the first step runs at 0.

    Raises:
        ValueError: no steps at all, or a warm-up share outside 0..1.
    """
    if total_steps < 1 or not 0 <= warmup <= 1:
        raise ValueError(f"need total_steps of at least 1 and warmup in 0..1; got {total_steps} and {warmup}")
    done = step / total_steps
    if done < warmup:
        return lr * (done / warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def retrieval_groups(
    model: VideoTextModel, *, weight_decay: float = 0.2, pretrained_lr_ratio: float = 1e-3
) -> list[ParameterGroup]:
    """The released groups: biases are not decayed, what comes from the image-text model trains slowly.

    `pretrained_lr_ratio` is the share of the rate for those parts (the released code's `coef_lr`). Groups without
    parameters are left out.
    """
    members: dict[tuple[bool, bool], list[str]] = {}
    parameters = dict(model.named_trained_parameters())
    for name in parameters:
        members.setdefault((name.startswith(PRETRAINED_PARTS), "bias" not in name), []).append(name)
    return [
        ParameterGroup(
            name=("image-text model" if pretrained else "side network and comparison") + ("" if decays else ", biases"),
            names=tuple(members[pretrained, decays]),
            parameters=tuple(parameters[name] for name in members[pretrained, decays]),
            lr_scale=pretrained_lr_ratio if pretrained else 1.0,
            weight_decay=weight_decay if decays else 0.0,
        )
        for pretrained in (False, True)
        for decays in (True, False)
        if (pretrained, decays) in members
    ]


def make_retrieval_optimizer(
    groups: list[ParameterGroup], *, max_norm: float | None = 1.0, betas: tuple[float, float] = (0.9, 0.98)
) -> RetrievalAdam:
    """The optimiser over the groups, at rate 0 until `optim.set_rate` gives it one."""
    return RetrievalAdam(
        [
            {"params": list(g.parameters), "weight_decay": g.weight_decay, "lr_scale": g.lr_scale, "lr": 0.0}
            for g in groups
        ],
        lr=0.0,
        betas=betas,
        max_norm=max_norm,
    )
