"""Runs parts of the side network without keeping what is inside them: the backward pass computes it again.

Of a stage (projection, fusion, side block) only two things stay for the backward pass: the fused side stream that
enters the block, and the frozen tokens of the tap, once, in the backbone's own precision; the weight gradient of the
projection needs those in any case. Outputs and gradients are those of the plain run: the same operations on the same
numbers, only sums over slices of the batch may run in another order.

What ties the clips of a batch together is batch norm alone. Everything between two batch norms can be computed a few
clips at a time (`Sliced`), and the last thing in each part is a linear map, whose gradient is written out here: its
output need not be computed again.

Batch norm would count a batch twice when its forward pass runs twice, so during the second run its statistics are not
tracked. Nothing here draws random numbers.

Source: activation checkpointing, arXiv:1604.06174; the saving for this architecture is ours (docs, "Memory").
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from side4video.side.kernels import apply_linear, linear
from side4video.side.offload import TokenStore
from side4video.slices import alike, pieces

# frames that a part of the side network is run over at a time: enough to keep a device busy
SLICE_FRAMES = 32
Function = Callable[..., Tensor]
Last = nn.Linear | tuple[Tensor, Tensor] | None
"""The linear map that ends a part, or its weight and bias, or nothing."""
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _not_compiled(method: _Method) -> _Method:
    """What is made of autograd's own parts: a compiler would not gain anything on it. The type stays the method's."""
    return cast("_Method", torch.compiler.disable(method))


class Run(Protocol):
    """How `last(inner(*clips, *shared))` is run.

    `clips` are tensors whose first two axes are clips and frames and which need not be looked at together, `shared`
    belongs to all clips. `modules` are the ones whose parameters `inner` uses; without a `last` linear map the result
    is `inner`'s. When the result is not `needed`, only its gradient, its numbers may be any.
    """

    def __call__(
        self,
        inner: Function,
        last: Last,
        modules: Sequence[nn.Module],
        clips: Sequence[Tensor],
        shared: Sequence[Tensor] = (),
        *,
        needed: bool = True,
    ) -> Tensor: ...


def run_plain(
    inner: Function,
    last: Last,
    modules: Sequence[nn.Module],  # noqa: ARG001
    clips: Sequence[Tensor],
    shared: Sequence[Tensor] = (),
    *,
    needed: bool = True,  # noqa: ARG001
) -> Tensor:
    """Just run it."""
    hidden = inner(*clips, *shared)
    if isinstance(last, tuple):
        return linear(hidden, *last)
    return hidden if last is None else apply_linear(last, hidden)


class Sliced:
    """A `Run` over a few clips at a time, about `frames` frames, that keeps only its inputs.

    The backward pass runs `inner` a second time, slice by slice. With a `store`, the first of the inputs waits there
    instead of on the device.
    """

    def __init__(self, *, store: TokenStore | None = None, frames: int = SLICE_FRAMES) -> None:
        self.store = store
        self.frames = frames

    @_not_compiled
    def __call__(
        self,
        inner: Function,
        last: Last,
        modules: Sequence[nn.Module],
        clips: Sequence[Tensor],
        shared: Sequence[Tensor] = (),
        *,
        needed: bool = True,
    ) -> Tensor:
        """`last(inner(*clips, *shared))`."""
        size = max(1, self.frames // clips[0].shape[1])
        ends: tuple[Tensor | None, Tensor | None] = (None, None)
        if last is not None:
            ends = last if isinstance(last, tuple) else (last.weight, last.bias)
        known = {id(end) for end in ends}
        parameters = [p for module in modules for p in module.parameters() if id(p) not in known]
        split = _Split(inner, size, len(clips), len(shared), needed=needed)
        return _Sliced.apply(split, self.store, *clips, *shared, *ends, *parameters)  # pyright: ignore[reportReturnType]


class Recompute:
    """Runs a function and keeps only its inputs; the backward pass runs `again` on them.

    `again` may give a tuple of terms in place of their sum, which is then never formed.

    The gradients of the modules' parameters leave through autograd like any other, so gradient hooks see them. With a
    `store`, the first of the inputs waits there instead of on the device.
    """

    def __init__(self, *, store: TokenStore | None = None) -> None:
        self.store = store

    @_not_compiled
    def __call__(
        self,
        function: Function,
        modules: Sequence[nn.Module],
        *tensors: Tensor,
        again: Callable[..., Tensor | tuple[Tensor, ...]] | None = None,
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
        function: Function,
        again: Function,
        modules: Sequence[nn.Module],
        num_tensors: int,
        *inputs: Tensor,
    ) -> Tensor:
        tensors, ctx.parameters = inputs[:num_tensors], inputs[num_tensors:]
        ctx.again, ctx.modules = again, modules
        ctx.autocast = _autocast_state(inputs[0].device)
        with ctx.autocast():
            out = alike(lambda: ("forward", *_shapes(inputs)), lambda: function(*tensors))
        _keep(ctx, store, tensors)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[5:]
        kept = _kept(ctx)
        gradients = alike(
            lambda: ("backward", needed, *_shapes((*kept, *ctx.parameters))),
            lambda: _Recomputed.gradients(ctx, kept, grads[0]),
        )
        return None, None, None, None, None, *gradients

    @staticmethod
    def gradients(ctx: Any, kept: Sequence[Tensor], grad: Tensor) -> list[Tensor | None]:
        """Of the inputs and the parameters."""
        needed = ctx.needs_input_grad[5:]
        tensors = [t.detach().requires_grad_(need) for t, need in zip(kept, needed[: len(kept)], strict=True)]
        wanted = [t for t in (*tensors, *ctx.parameters) if t.requires_grad]
        with torch.enable_grad(), ctx.autocast(), untracked_statistics(ctx.modules):
            terms = ctx.again(*tensors)
            terms = terms if isinstance(terms, tuple) else (terms,)
            terms = [term for term in terms if term.requires_grad]
            found = iter(torch.autograd.grad(terms, wanted, [grad] * len(terms), allow_unused=True))
        return [next(found) if t.requires_grad else None for t in (*tensors, *ctx.parameters)]


class _Split:
    """What `_Sliced` runs, and how its inputs are ordered: clips, shared, weight and bias of the last map, others."""

    def __init__(self, inner: Function, size: int, num_clips: int, num_shared: int, *, needed: bool) -> None:
        self.inner, self.size, self.needed = inner, size, needed
        self.num_clips, self.num_shared = num_clips, num_shared

    def parts(self, inputs: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
        """Clips, shared, (weight, bias), parameters."""
        a, b = self.num_clips, self.num_clips + self.num_shared
        return inputs[:a], inputs[a:b], inputs[b : b + 2], inputs[b + 2 :]

    def forward(self, inputs: Sequence[Any]) -> Tensor:
        """The result, slice by slice."""
        clips, shared, ends, _ = self.parts(inputs)
        total = clips[0].shape[0]
        if not self.needed:
            assert ends[0] is not None, "only the output of a linear map can be left out"
            return clips[0].new_zeros(1).expand(*clips[0].shape[:-1], ends[0].shape[0])
        out: Tensor | None = None
        for piece in pieces(total, self.size):
            part = self.inner(*(clip[piece] for clip in clips), *shared)
            if ends[0] is not None:
                part = nn.functional.linear(part, *ends)
            if out is None:
                if part.shape[0] == total:
                    return part
                out = part.new_empty(total, *part.shape[1:])
            out[piece] = part
            del part
        assert out is not None
        return out


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, split: _Split, store: TokenStore | None, *inputs: Any) -> Tensor:
        clips, shared, ends, parameters = split.parts(inputs)
        ctx.split, ctx.ends, ctx.parameters = split, ends, parameters
        ctx.autocast = _autocast_state(clips[0].device)
        _keep(ctx, store, (*clips, *shared))
        with ctx.autocast():
            return alike(lambda: ("sliced", split.needed, *_shapes(inputs)), lambda: split.forward(inputs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        kept = _kept(ctx)
        key = lambda: ("sliced backward", ctx.needs_input_grad, *_shapes((*kept, *ctx.ends, *ctx.parameters)))  # noqa: E731
        return None, None, *alike(key, lambda: _Sliced.gradients(ctx, kept, grads[0]))

    @staticmethod
    def gradients(ctx: Any, kept: Sequence[Tensor], whole_grad: Tensor) -> list[Tensor | None]:
        """Of all inputs, added up over slices."""
        split: _Split = ctx.split
        clips, shared = kept[: split.num_clips], kept[split.num_clips :]
        needs_clips, needs_shared, needs_ends, needs_others = split.parts(ctx.needs_input_grad[2:])
        sums = _Sums(len(shared) + 2 + len(ctx.parameters))
        clip_grads = [torch.empty_like(clip) if need else None for clip, need in zip(clips, needs_clips, strict=True)]
        shared = [tensor.detach().requires_grad_(need) for tensor, need in zip(shared, needs_shared, strict=True)]
        others = (*shared, *ctx.parameters)
        needs = (*needs_shared, *needs_others)
        places = [*range(len(shared)), *range(len(shared) + 2, len(sums.values))]
        for piece in pieces(clips[0].shape[0], split.size):
            grad = whole_grad[piece]
            inputs = [clip[piece].detach().requires_grad_(need) for clip, need in zip(clips, needs_clips, strict=True)]
            wanted = [t for t, need in zip((*inputs, *others), (*needs_clips, *needs), strict=True) if need]
            with torch.enable_grad(), ctx.autocast():
                hidden = split.inner(*inputs, *shared)
            grad = grad.to(hidden.dtype)
            if ctx.ends[0] is not None:
                for offset, value in enumerate(_linear_gradients(grad, hidden, ctx.ends, needs_ends)):
                    sums.add(len(shared) + offset, value)
                grad = grad @ ctx.ends[0].to(grad.dtype) if hidden.requires_grad else grad
            found = iter(())
            if hidden.requires_grad:
                found = iter(torch.autograd.grad(hidden, wanted, grad, allow_unused=True))
                for total, need in zip(clip_grads, needs_clips, strict=True):
                    part = next(found) if need else None
                    if total is not None:
                        total[piece] = 0 if part is None else part
                for place, need in zip(places, needs, strict=True):
                    sums.add(place, next(found) if need else None)
            del hidden, inputs, wanted, found, grad
        return [*clip_grads, *sums.values]


class _Sums:
    """Gradients added up over slices."""

    def __init__(self, count: int) -> None:
        self.values: list[Tensor | None] = [None] * count

    def add(self, index: int, value: Tensor | None) -> None:
        """Add a slice's gradient to one of the sums."""
        total = self.values[index]
        if value is None:
            return
        # not in place: autograd may have given one tensor out for two of its gradients
        self.values[index] = value if total is None else total + value


def _linear_gradients(
    grad: Tensor, hidden: Tensor, ends: Sequence[Tensor | None], needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias of `hidden @ weight.T + bias`, in the type of the weights."""
    weight, bias = ends
    assert weight is not None
    rows_RO, rows_RI = grad.flatten(0, -2), hidden.detach().flatten(0, -2).to(grad.dtype)
    of_weight = (rows_RO.t() @ rows_RI).to(weight.dtype) if needs[0] else None
    of_bias = rows_RO.sum(0).to(bias.dtype) if bias is not None and needs[1] else None
    return of_weight, of_bias


def _keep(ctx: Any, store: TokenStore | None, tensors: Sequence[Tensor]) -> None:
    """Save tensors for the backward pass, the first of them in the store if there is one."""
    ctx.store = store
    if store is None:
        ctx.save_for_backward(*tensors)
    else:
        ctx.handle = store.put(tensors[0])
        ctx.save_for_backward(*tensors[1:])


def _kept(ctx: Any) -> tuple[Tensor, ...]:
    rest = ctx.saved_tensors
    return rest if ctx.store is None else (ctx.store.get(ctx.handle), *rest)


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
    # no cache: it would hold every weight a second time until the forward pass is over
    return lambda: torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False)


def _shapes(tensors: Sequence[Any]) -> list[Any]:
    """What decides how much is allocated and computed for tensors."""
    return [None if t is None else (t.shape, t.dtype) for t in tensors]
