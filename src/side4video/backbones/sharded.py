"""Frozen blocks whose weights are spread over the processes of a run: each keeps its part of every block.

Before a block runs, all processes give each other their parts (FSDP2's all-gather), the next block's on their way
meanwhile; afterwards the whole block goes again. Gathering is exact, and frozen weights have no gradient to send. It
takes every process: one that has no clips of its own goes through the blocks without running them (`take_part`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, UnshardHandle, fully_shard
from torch.distributed.tensor import DTensor

from side4video.backbones.block_weights import BlockWeights, Visits
from side4video.backbones.freezing import cast
from side4video.backbones.mapped import own_weights
from side4video.errors import BackboneError


def num_processes() -> int:
    """Processes that can share weights: those of the group, or this one alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class ShardedBlocks:
    """The weights of a list of blocks, of which this process keeps its part.

    They are cast and taken over block by block: of mapped weights (see `mapped`), never more than one whole block is in
    memory beside the parts. Afterwards the blocks' parameters are `DTensor`s, whole only inside `visits`.

    Raises:
        BackboneError: `processes` is not the number of processes in the group.
    """

    host_bytes = 0

    def __init__(
        self, blocks: Sequence[nn.Module], *, processes: int, precision: torch.dtype | None, device: torch.device
    ) -> None:
        if processes != num_processes():
            raise BackboneError(f"shard: got {processes} processes, but there are {num_processes()} in the group")
        mesh = init_device_mesh(device.type, (processes,))
        self._blocks: list[FSDPModule] = []
        for block in blocks:
            own_weights(block, precision, hashed=False)
            if precision is not None:
                cast(block, precision)
            self._blocks.append(fully_shard(block, mesh=mesh, reshard_after_forward=False))

    def resident(self) -> list[Tensor]:
        """This process's parts."""
        return [value.to_local() for value in self._parameters() if isinstance(value, DTensor)]

    def owned(self) -> set[int]:
        """Ids of the parameters that are kept here."""
        return {id(value) for value in self._parameters()}

    def leave(self) -> None:
        """Nothing: parts stay where they are."""

    def move(self, function: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Stay: parts belong to the device that they were made for.

        Raises:
            BackboneError: another kind of device.
        """
        del function
        here = self.resident()[0].device
        if device.type != here.type:
            raise BackboneError(f"device: weights that are spread over processes stay on {here.type}; got {device}")

    @contextmanager
    def visits(self, order: Iterable[int]) -> Generator[_Visits]:
        """A pass over the blocks of `order`, in which every process takes part; each is whole inside `of`."""
        visits = _Visits([self._blocks[index] for index in order])
        try:
            yield visits
        finally:
            visits.close()

    def take_part(self, order: Iterable[int]) -> None:
        """The pass of a process that has nothing to run."""
        places = list(order)
        with self.visits(places) as visits:
            for index in places:
                with visits.of(index):
                    pass

    def _parameters(self) -> list[nn.Parameter]:
        return [value for block in self._blocks for value in _module(block).parameters()]


class PlannedShards:
    """What `ShardedBlocks` takes of a device, for weights that are not there: a part of each block, and two whole ones
    during a pass."""

    host_bytes = 0

    def __init__(self, blocks: Sequence[nn.Module], *, processes: int, device: torch.device) -> None:
        self._whole = BlockWeights(blocks, stream=True, device=device, copies=True)
        sizes = [self._whole.buffer(index).nbytes for index in range(len(blocks))]
        self._parts = [torch.empty(-(-size // processes), dtype=torch.uint8, device=device) for size in sizes]

    def resident(self) -> list[Tensor]:
        """The parts."""
        return self._parts

    def owned(self) -> set[int]:
        """Ids of the parameters that are kept here."""
        return self._whole.owned()

    def leave(self) -> None:
        """As `BlockWeights.leave`."""
        self._whole.leave()

    def move(self, function: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """As `BlockWeights.move`."""
        self._whole.move(function, device)

    def visits(self, order: Iterable[int]) -> Visits:
        """As `BlockWeights.visits`."""
        return self._whole.visits(order)


class _Visits:
    """One pass: gathers a block ahead."""

    def __init__(self, blocks: list[FSDPModule]) -> None:
        self._blocks = blocks
        self._place = -1
        self._coming: UnshardHandle | None = blocks[0].unshard(async_op=True) if blocks else None

    @contextmanager
    def of(self, index: int) -> Generator[None]:
        """Inside, the block is whole. Blocks are visited in the order that was said."""
        del index
        self._place += 1
        block = self._blocks[self._place]
        if self._coming is not None:
            self._coming.wait()
            self._coming = None
        try:
            if self._place + 1 < len(self._blocks):
                self._coming = self._blocks[self._place + 1].unshard(async_op=True)
            yield
        finally:
            block.reshard()

    def close(self) -> None:
        """The pass is over, or was left early: what is on its way arrives and goes."""
        if self._coming is not None:
            self._coming.wait()
            self._blocks[self._place + 1].reshard()
            self._coming = None


def _module(block: FSDPModule) -> nn.Module:
    assert isinstance(block, nn.Module)
    return block
