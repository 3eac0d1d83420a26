"""Runs side blocks without keeping what is inside them: the backward pass computes it again.

A segment is a run of consecutive stages (projection, fusion, side block). Of a segment only two things stay for the
backward pass: the side stream that entered it, and the frozen tokens of each of its stages, once, in the backbone's own
precision; the weight gradient of a projection needs those in any case. Outputs and gradients are those of the plain
run: the same operations on the same numbers, in the same order.

Batch norm would count a batch twice when its forward pass runs twice, so during the second run its statistics are not
tracked. Nothing here draws random numbers.

Source: activation checkpointing, arXiv:1604.06174; the saving for this architecture is ours (DESIGN: where the memory
goes).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from side4video.side.offload import TokenStore

# number of the stage, what enters it (pixels for the first, then the side stream), frozen tokens, position table
Stage = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Segments:
    """Runs stages one segment at a time.

    `modules_of` gives the modules of a stage. The gradients of their parameters leave through autograd like any other,
    so gradient hooks see them; their batch norms do not count the second run. With a `store`, frozen tokens wait there.
    """

    def __init__(
        self, stage: Stage, *, modules_of: Callable[[int], Sequence[nn.Module]], store: TokenStore | None = None
    ) -> None:
        self.stage = stage
        self.modules_of = modules_of
        self.store = store

    def run(self, first: int, count: int, stream: Tensor, position_QS: Tensor, tokens: Iterator[Tensor]) -> Tensor:
        """What leaves the last of `count` stages from number `first` on; their tokens are drawn as they run."""
        parameters = [p for k in range(first, first + count) for m in self.modules_of(k) for p in m.parameters()]
        return _Segment.apply(self, self.store, first, count, tokens, stream, position_QS, *parameters)  # pyright: ignore[reportReturnType]

    def again(self, first: int, stream: Tensor, position_QS: Tensor, tokens: Sequence[Tensor]) -> Tensor:
        """The same with gradients recorded; several stages become a segment each, so that one at a time is open."""
        if len(tokens) == 1:
            return self.stage(first, stream, tokens[0], position_QS)
        inner = Segments(self.stage, modules_of=self.modules_of)
        for k, tokens_BTAD in enumerate(tokens, start=first):
            stream = inner.run(k, 1, stream, position_QS, iter([tokens_BTAD]))
        return stream


class _Segment(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        segments: Segments,
        store: TokenStore | None,
        first: int,
        count: int,
        tokens: Iterator[Tensor],
        stream: Tensor,
        position_QS: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        out = stream
        kept: list[Tensor] = []
        handles: list[int] = []
        for k in range(first, first + count):
            tokens_BTAD = next(tokens)
            out = segments.stage(k, out, tokens_BTAD, position_QS)
            if store is None:
                kept.append(tokens_BTAD)
            else:
                handles.append(store.put(tokens_BTAD))
        ctx.segments, ctx.store, ctx.first, ctx.handles = segments, store, first, handles
        ctx.parameters = parameters
        ctx.autocast = _autocast_state(position_QS.device.type)
        ctx.save_for_backward(stream, position_QS, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        stream, position_QS, *tokens = ctx.saved_tensors
        if ctx.store is not None:
            tokens = [ctx.store.get(handle) for handle in reversed(ctx.handles)][::-1]
        segments: Segments = ctx.segments
        # the pixels that enter the first stage need no gradient
        stream, position_QS = stream.detach(), position_QS.detach().requires_grad_()
        stream.requires_grad_(ctx.needs_input_grad[5])
        wanted = [t for t in (stream, position_QS, *ctx.parameters) if t.requires_grad]
        modules = [m for k in range(ctx.first, ctx.first + len(tokens)) for m in segments.modules_of(k)]
        with torch.enable_grad(), ctx.autocast(), untracked_statistics(modules):
            out = segments.again(ctx.first, stream, position_QS, tokens)
            found = iter(torch.autograd.grad(out, wanted, grads[0], allow_unused=True))
        gradients = [next(found) if t.requires_grad else None for t in (stream, position_QS, *ctx.parameters)]
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


def _autocast_state(device_type: str) -> Callable[[], AbstractContextManager[object]]:
    """A maker of the autocast context in force now, for another thread later."""
    if device_type == "meta":  # no numbers, and a device that autocast does not know
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    cache = torch.is_autocast_cache_enabled()
    return lambda: torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache)
