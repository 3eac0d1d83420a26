"""Where the weights of frozen blocks rest between two runs of a block: in host memory, in fewer bits, or both.

At rest, all parameters of a block lie in one flat buffer of bytes. Before the block runs, its buffer is brought to
the device if it is not there (`stream`), its matrices are unpacked (`quantise`), and the block's parameters point at
the result; afterwards they point back. Streamed blocks arrive through two buffers on the device, so that one is
copied, on a CUDA stream of its own, while the one before runs. Streaming is exact; quantisation is not.

On a CPU the weights are in host memory already: streaming copies nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from side4video.backbones.quantised import Quantisation, is_matrix, pack, unpack

# parts of a buffer begin at multiples of this many bytes, as kernels like them
ALIGNMENT = 256


class Pass(Protocol):
    """One pass over blocks: each has its weights inside `of`, in the order that was said."""

    def of(self, index: int) -> AbstractContextManager[None]: ...


Visits = AbstractContextManager[Pass]


class RestingWeights(Protocol):
    """Weights of blocks that are elsewhere, or something else, between two passes.

    `resident` are the tensors that stay on the device, `owned` the ids of the parameters that are kept there, `leave`
    and `move` what happens around `nn.Module.to`, `visits` a pass over blocks.
    """

    @property
    def host_bytes(self) -> int: ...
    def resident(self) -> list[Tensor]: ...
    def owned(self) -> set[int]: ...
    def leave(self) -> None: ...
    def move(self, function: Callable[[Tensor], Tensor], device: torch.device) -> None: ...
    def visits(self, order: Iterable[int]) -> Visits: ...


@dataclass(frozen=True)
class _Part:
    """A tensor inside a buffer."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor itself."""
        size = self.shape.numel() * self.dtype.itemsize
        return buffer[self.offset : self.offset + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class _Slot:
    """A parameter of a block: one part as it is, or two when it is packed."""

    tensor: Tensor
    shape: torch.Size
    dtype: torch.dtype
    kind: Quantisation
    parts: tuple[_Part, ...]

    def value(self, buffer: Tensor) -> Tensor:
        """What the block computes with."""
        found = [part.view(buffer) for part in self.parts]
        return found[0] if self.kind == "none" else unpack(found[0], found[1], self.kind, self.shape, self.dtype)

    def at_rest(self, buffer: Tensor) -> Tensor:
        """What the parameter is between two runs: itself, or NaN of its shape, so that nobody takes it for itself."""
        if self.kind == "none":
            return self.parts[0].view(buffer)
        return torch.full((), float("nan"), dtype=self.dtype, device=buffer.device).expand(self.shape)


class BlockWeights:
    """The weights of a list of blocks, taken over from them.

    `copies` says whether streaming copies; by default it does unless the device is a CPU.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        quantise: Quantisation = "none",
        stream: bool = False,
        device: torch.device,
        copies: bool | None = None,
    ) -> None:
        self.quantise: Quantisation = quantise
        self.stream = stream
        self.device = device
        self._copies = copies
        self._buffers: list[Tensor] = []
        self._slots: list[list[_Slot]] = []
        self._resting: list[list[Tensor]] = []
        for block in blocks:
            slots, buffer = _flatten(block, quantise, torch.device("cpu") if stream else device)
            self._slots.append(slots)
            self._buffers.append(buffer)
            # at once, block by block: what they replace goes
            self._resting.append([slot.at_rest(buffer) for slot in slots])
            self.rest(len(self._buffers) - 1)
        self._settle()

    @property
    def copies(self) -> bool:
        """Whether blocks are copied to the device before they run."""
        return self.stream and (self.device.type != "cpu" if self._copies is None else self._copies)

    @property
    def host_bytes(self) -> int:
        """Bytes that wait in host memory for the device."""
        return sum(buffer.nbytes for buffer in self._buffers) if self.copies else 0

    def resident(self) -> list[Tensor]:
        """The buffers that stay on the device."""
        return [] if self.copies else self._buffers

    def owned(self) -> set[int]:
        """Ids of the parameters whose data is kept here."""
        return {id(slot.tensor) for slots in self._slots for slot in slots}

    def move(self, function: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Go to another device, the way `nn.Module.to` goes."""
        self.device = device
        if not self.stream:
            self._buffers = [function(buffer) for buffer in self._buffers]
        self._settle()

    def leave(self) -> None:
        """Let the parameters point at nothing, so that moving them moves nothing."""
        for slot in (slot for slots in self._slots for slot in slots):
            slot.tensor.data = torch.empty(0, dtype=slot.dtype)

    @contextmanager
    def visits(self, order: Iterable[int]) -> Generator[_Visits]:
        """A pass over the blocks of `order`, each of which is then there once, inside `of`."""
        visits = _Visits(self, list(order))
        try:
            yield visits
        finally:
            visits.close()

    def put(self, index: int, buffer: Tensor) -> None:
        """Let a block's parameters point into this copy of its buffer."""
        for slot in self._slots[index]:
            slot.tensor.data = slot.value(buffer)

    def buffer(self, index: int) -> Tensor:
        """A block's buffer, where it rests."""
        return self._buffers[index]

    def rest(self, index: int) -> None:
        """Let a block's parameters point back."""
        for slot, value in zip(self._slots[index], self._resting[index], strict=True):
            slot.tensor.data = value

    def _settle(self) -> None:
        """After the buffers have moved: page-locked memory for what is copied, and parameters that point there."""
        if self.stream and self.device.type == "cuda":
            self._buffers = [buffer if buffer.is_pinned() else buffer.pin_memory() for buffer in self._buffers]
        for index, (slots, buffer) in enumerate(zip(self._slots, self._buffers, strict=True)):
            self._resting[index] = [slot.at_rest(buffer) for slot in slots]
            self.rest(index)


class _Visits:
    """One pass: fetches a block ahead, and holds the two buffers on the device."""

    def __init__(self, weights: BlockWeights, order: list[int]) -> None:
        self._weights, self._order = weights, order
        self._next = 0
        self._lent: list[Tensor] = []
        self._arrived: list[torch.cuda.Event] = []
        self._free: list[torch.cuda.Event] = []
        self._stream: torch.cuda.Stream | None = None
        if weights.copies:
            most = max(weights.buffer(index).nbytes for index in order)
            count = min(2, len(order))
            self._lent = [torch.empty(most, dtype=torch.uint8, device=weights.device) for _ in range(count)]
            if weights.device.type == "cuda":
                self._stream = torch.cuda.Stream(weights.device)
                self._arrived = [torch.cuda.Event() for _ in self._lent]
                self._free = [torch.cuda.Event() for _ in self._lent]
                for event in self._free:
                    event.record()
            self._fetch(0)

    @contextmanager
    def of(self, index: int) -> Generator[None]:
        """Inside, this block has its weights. Blocks are visited in the order that was said."""
        place, self._next = self._next, self._next + 1
        assert self._order[place] == index, "blocks are visited in order"
        self._weights.put(index, self._take(place))
        try:
            yield
        finally:
            self._weights.rest(index)
            if self._free:
                self._free[place % 2].record()

    def close(self) -> None:
        """The pass is over: the device's buffers go."""
        if self._stream is not None:
            # a pass that was left early may still be copying
            torch.cuda.current_stream(self._weights.device).wait_stream(self._stream)
        self._lent = []

    def _take(self, place: int) -> Tensor:
        if not self._lent:
            return self._weights.buffer(self._order[place])
        if place + 1 < len(self._order):
            self._fetch(place + 1)
        if self._stream is not None:
            torch.cuda.current_stream(self._weights.device).wait_event(self._arrived[place % 2])
        return self._lent[place % 2]

    def _fetch(self, place: int) -> None:
        source = self._weights.buffer(self._order[place])
        target = self._lent[place % 2][: source.nbytes]
        if self._stream is None:
            target.copy_(source)
            return
        # the block that ran here two places ago, or whatever had this memory before
        self._stream.wait_event(self._free[place % 2])
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            self._arrived[place % 2].record()


def _flatten(block: nn.Module, quantise: Quantisation, device: torch.device) -> tuple[list[_Slot], Tensor]:
    """A block's tensors in one buffer, and where each of them is."""
    slots: list[_Slot] = []
    values: list[tuple[_Part, Tensor]] = []
    size = 0
    for tensor in block.parameters():
        packed = quantise != "none" and is_matrix(tensor)
        found = pack(tensor, quantise) if packed else (tensor.detach(),)
        parts: list[_Part] = []
        for value in found:
            parts.append(_Part(size, value.shape, value.dtype))
            values.append((parts[-1], value))
            size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        slots.append(_Slot(tensor, tensor.shape, tensor.dtype, quantise if packed else "none", tuple(parts)))
    buffer = torch.empty(size, dtype=torch.uint8, device=device)
    for part, value in values:
        part.view(buffer).copy_(value)
    return slots, buffer
