"""Follows every storage that a piece of code allocates, on tensors that have sizes but no numbers.

Under a fake-tensor mode a whole training step runs in seconds on any machine; this mode, entered inside it, notes when
each storage is born and dies, and what each operation computes and moves. Afterwards the live bytes at any moment are
known, and what they were.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

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
    """What one operation computes (two for a multiply-add) and moves between memory and chip."""

    flops: int
    moved_bytes: int


@dataclass
class StorageTracker(TorchDispatchMode):
    """Records allocations and operations while it is entered."""

    allocations: list[Allocation] = field(default_factory=list[Allocation])
    operations: list[Operation] = field(default_factory=list[Operation])
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
        outputs = [leaf for leaf in tree_iter(out) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        known = len(self._live)
        for tensor in outputs:
            self._follow(tensor)
        flops = _flops(func, args, kwargs, out)
        writes = len(self._live) > known or _is_inplace(func)
        moved = sum(t.numel() * t.element_size() for t in (*inputs, *outputs)) if writes else 0
        self.operations.append(Operation(flops, moved))
        return out

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


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Two for each multiply-add of a matrix product or convolution; everything else is free."""
    packet = func._overloadpacket
    packet = _SAME_ARITHMETIC.get(str(packet), packet)
    formula = flop_registry.get(packet)
    return int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0


def _is_inplace(func: Any) -> bool:
    return bool(func._schema.is_mutable)
