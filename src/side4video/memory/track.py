"""Follows every storage that a piece of code allocates, on tensors that have sizes but no numbers.

Under a fake-tensor mode a whole training step runs in seconds on any machine; this mode, entered inside it, notes when
each storage is born and dies, and what each operation computes and moves. Afterwards the live bytes at any moment are
known, and what they were.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

Result = TypeVar("Result")
# CUDA's caching allocator hands out multiples of this many bytes
BLOCK_BYTES = 512
NEVER = 2**62
# the CPU's attention kernels, which torch's table of formulas lacks, and their namesakes that are in it
_SAME_ARITHMETIC = {
    "aten._scaled_dot_product_flash_attention_for_cpu": torch.ops.aten._scaled_dot_product_flash_attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": (
        torch.ops.aten._scaled_dot_product_flash_attention_backward
    ),
}


@dataclass
class Allocation:
    """One storage: its bytes, and the operations between which it lived. `cause` is set when it is known."""

    num_bytes: int
    born: int
    died: int = NEVER
    cause: str = ""


@dataclass(frozen=True)
class Operation:
    """What one operation computes (two for a multiply-add) and moves between memory and chip; `name` is PyTorch's.

    It stands for `count` operations alike.
    """

    flops: int
    moved_bytes: int
    name: str = ""
    count: int = 1


@dataclass(frozen=True)
class _Segment:
    """Operations and allocations of a call, from one number to another."""

    operations: tuple[int, int]
    allocations: tuple[int, int]
    count: int


@dataclass
class StorageTracker(TorchDispatchMode):
    """Records allocations and operations while it is entered."""

    allocations: list[Allocation] = field(default_factory=list[Allocation])
    operations: list[Operation] = field(default_factory=list[Operation])
    _count: int = 1
    _known: dict[Hashable, tuple[_Segment, Any]] = field(default_factory=dict[Hashable, tuple[_Segment, Any]])
    _live: dict[int, Allocation] = field(default_factory=dict[int, Allocation])

    def __post_init__(self) -> None:
        super().__init__()

    def adopt(self, tensors: Iterable[Tensor], cause: str) -> None:
        """Count tensors that were there before, or name the cause of ones that are being followed."""
        for tensor in tensors:
            self._follow(tensor).cause = cause

    def rename(self, tensor: Tensor, names: dict[str, str]) -> None:
        """Change the cause of a tensor's storage, by a table from old to new; a cause that is not in it stays."""
        allocation = self._follow(tensor)
        allocation.cause = names.get(allocation.cause, allocation.cause)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor | tuple | list):
            return out  # questions, such as for the device
        outputs = [leaf for leaf in tree_iter(out) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        known = len(self._live)
        for tensor in outputs:
            self._follow(tensor)
        flops = _flops(func, args, kwargs, out)
        writes = len(self._live) > known or _is_inplace(func)
        moved = sum(t.numel() * t.element_size() for t in (*inputs, *outputs)) if writes else 0
        self.operations.append(Operation(flops, moved, str(func), self._count))
        return out

    @contextmanager
    def repeated(self, count: int) -> Generator[None]:
        """Each operation inside stands for `count` alike."""
        outside, self._count = self._count, self._count * count
        try:
            yield
        finally:
            self._count = outside

    def alike(self, key: Hashable, function: Callable[[], Result]) -> Result:
        """The result of `function`; when one of this key has run before, that one is counted again, not this one run.

        The result is then made of new tensors of the same sizes.
        """
        known = self._known.get(key)
        if known is None:
            operations, allocations = len(self.operations), len(self.allocations)
            result = function()
            segment = _Segment((operations, len(self.operations)), (allocations, len(self.allocations)), self._count)
            self._known[key] = segment, _sizes(result)
            return result
        segment, sizes = known
        self._replay(segment)
        return _of_sizes(sizes)

    def _replay(self, segment: _Segment) -> None:
        """Append a segment again: its operations, and what it allocated for itself alone."""
        (start, end), shift = segment.operations, self.now - segment.operations[0]
        for allocation in self.allocations[slice(*segment.allocations)]:
            if allocation.died <= end:
                copy = Allocation(allocation.num_bytes, allocation.born + shift, allocation.died + shift, "")
                self.allocations.append(copy)
        for operation in self.operations[start:end]:
            count = operation.count * self._count // segment.count
            self.operations.append(replace(operation, count=count))

    @property
    def now(self) -> int:
        """Operations so far."""
        return len(self.operations)

    def peak(self) -> tuple[int, int]:
        """Most bytes alive at once, and after which operation."""
        changes: dict[int, int] = {}
        for allocation in self.allocations:
            changes[allocation.born] = changes.get(allocation.born, 0) + allocation.num_bytes
            changes[allocation.died] = changes.get(allocation.died, 0) - allocation.num_bytes
        live = best = when = 0
        for moment in sorted(changes):
            live += changes[moment]
            if live > best:
                best, when = live, moment
        return best, when

    def by_cause(self, moment: int) -> dict[str, int]:
        """Bytes alive at a moment, by cause; those without one are working memory."""
        found: dict[str, int] = {}
        for allocation in self.allocations:
            if allocation.born <= moment < allocation.died:
                cause = allocation.cause or "working"
                found[cause] = found.get(cause, 0) + allocation.num_bytes
        return found

    def _follow(self, tensor: Tensor) -> Allocation:
        storage = tensor.untyped_storage()
        key: int = storage._cdata  # pyright: ignore[reportPrivateUsage]
        if key not in self._live:
            num_bytes = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
            self._live[key] = Allocation(num_bytes, born=self.now)
            self.allocations.append(self._live[key])
            weakref.finalize(storage, self._died, key)
        return self._live[key]

    def _died(self, key: int) -> None:
        self._live.pop(key).died = self.now


def _sizes(result: Any) -> Any:
    """Sizes in place of tensors."""
    if isinstance(result, list | tuple):
        return [_sizes(part) for part in cast("list[Any]", result)]
    return (result.shape, result.stride(), result.dtype) if isinstance(result, Tensor) else None


def _of_sizes(sizes: Any) -> Any:
    """Tensors in place of sizes."""
    if isinstance(sizes, list):
        return [_of_sizes(part) for part in cast("list[Any]", sizes)]
    return None if sizes is None else torch.empty_strided(sizes[0], sizes[1], dtype=sizes[2])


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Two for each multiply-add of a matrix product or convolution; everything else is free."""
    packet = func._overloadpacket
    packet = _SAME_ARITHMETIC.get(str(packet), packet)
    formula = flop_registry.get(packet)
    return int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0


def _is_inplace(func: Any) -> bool:
    return bool(func._schema.is_mutable)
