"""Runs parts of the side network without keeping what is inside them: the backward pass computes it again.

Of a stage (projection, fusion, side block) only two things stay for the backward pass: the side stream that entered it,
and the frozen tokens of its tap, once, in the backbone's own precision; the weight gradient of the projection needs
those in any case. Outputs and gradients are those of the plain run: the same operations on the same numbers.

Batch norm would count a batch twice when its forward pass runs twice, so during the second run its statistics are not
tracked. Nothing here draws random numbers.

Source: activation checkpointing, arXiv:1604.06174; the saving for this architecture is ours (docs, "Memory").
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from side4video.side.offload import TokenStore


class Run(Protocol):
    """How a function of tensors is run; `modules` are the ones whose parameters it uses."""

    def __call__(self, function: Callable[..., Tensor], modules: Sequence[nn.Module], *tensors: Tensor) -> Tensor: ...


def run_plain(function: Callable[..., Tensor], modules: Sequence[nn.Module], *tensors: Tensor) -> Tensor:  # noqa: ARG001
    """Just run it."""
    return function(*tensors)


class Recompute:
    """Runs a function and keeps only its inputs; the backward pass runs it, or `again`, a second time.

    The gradients of the modules' parameters leave through autograd like any other, so gradient hooks see them. With a
    `store`, the inputs wait there instead of on the device.
    """

    def __init__(self, *, store: TokenStore | None = None) -> None:
        self.store = store

    def __call__(
        self,
        function: Callable[..., Tensor],
        modules: Sequence[nn.Module],
        *tensors: Tensor,
        again: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """`function(*tensors)`."""
        parameters = [parameter for module in modules for parameter in module.parameters()]
        second = function if again is None else again
        return _Recomputed.apply(self.store, function, second, modules, len(tensors), *tensors, *parameters)  # pyright: ignore[reportReturnType]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        store: TokenStore | None,
        function: Callable[..., Tensor],
        again: Callable[..., Tensor],
        modules: Sequence[nn.Module],
        num_tensors: int,
        *inputs: Tensor,
    ) -> Tensor:
        tensors, ctx.parameters = inputs[:num_tensors], inputs[num_tensors:]
        out = function(*tensors)
        ctx.again, ctx.modules, ctx.store = again, modules, store
        ctx.autocast = _autocast_state(out.device)
        if store is None:
            ctx.save_for_backward(*tensors)
        else:
            ctx.handles = [store.put(tensor) for tensor in tensors]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if ctx.store is None:
            tensors = list(ctx.saved_tensors)
        else:
            tensors = [ctx.store.get(handle) for handle in reversed(ctx.handles)][::-1]
        needed = ctx.needs_input_grad[5:]
        tensors = [t.detach().requires_grad_(need) for t, need in zip(tensors, needed, strict=False)]
        wanted = [t for t in (*tensors, *ctx.parameters) if t.requires_grad]
        with torch.enable_grad(), ctx.autocast(), untracked_statistics(ctx.modules):
            out = ctx.again(*tensors)
            found = iter(torch.autograd.grad(out, wanted, grads[0], allow_unused=True))
        gradients = [next(found) if t.requires_grad else None for t in (*tensors, *ctx.parameters)]
        return None, None, None, None, None, *gradients


@contextmanager
def untracked_statistics(modules: Iterable[nn.Module]) -> Generator[None]:
    """Inside, batch norms in train mode still use the batch's statistics but do not count them."""
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        # in eval mode the running statistics are what is used: leave those alone
        norm.track_running_stats = norm.track_running_stats and not norm.training
    try:
        yield
    finally:
        for norm, was_tracked in zip(norms, tracked, strict=True):
            norm.track_running_stats = was_tracked


def _autocast_state(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """A maker of the autocast context in force now, for another thread later."""
    device_type = device.type
    if device_type == "meta":  # no numbers, and a device that autocast does not know
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    cache = torch.is_autocast_cache_enabled()
    return lambda: torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache)
