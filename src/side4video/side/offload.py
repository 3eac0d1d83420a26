"""Keeps frozen tokens in host memory between the forward and the backward pass.

On a GPU the copies run on a stream of their own and overlap with the next blocks: out, while the forward pass goes on;
back, one tap ahead of the backward pass, which asks for them in reverse order. On other devices the tokens stay where
they are, and nothing is gained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Slot:
    host: Tensor
    device: torch.device
    written: torch.cuda.Event | None
    fetched: Tensor | None = None
    arrived: torch.cuda.Event | None = None


class TokenStore:
    """Tensors put on the host in order of depth, and taken back in the opposite order. One store a forward pass."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}
        self._next = 0
        self._copies: torch.cuda.Stream | None = None

    @property
    def host_bytes(self) -> int:
        """Bytes that are on the host now."""
        return sum(slot.host.untyped_storage().nbytes() for slot in self._slots.values())

    def put(self, tokens: Tensor) -> int:
        """Move a tensor to the host; gives the handle to get it back with."""
        handle, self._next = self._next, self._next + 1
        if tokens.device.type != "cuda":
            self._slots[handle] = _Slot(tokens, tokens.device, None)
            return handle
        if self._copies is None:
            self._copies = torch.cuda.Stream(tokens.device)
        self._copies.wait_stream(torch.cuda.current_stream(tokens.device))
        with torch.cuda.stream(self._copies):
            host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            host.copy_(tokens, non_blocking=True)
            written = torch.cuda.Event()
            written.record(self._copies)
        # the allocator must not hand this memory out before the copy has read it
        tokens.record_stream(self._copies)
        self._slots[handle] = _Slot(host, tokens.device, written)
        return handle

    def get(self, handle: int) -> Tensor:
        """The tensor on its device again; it leaves the store, and the one put before it sets out."""
        slot = self._slots.pop(handle)
        tokens = self._arrive(slot)
        if handle - 1 in self._slots:
            self._fetch(self._slots[handle - 1])
        return tokens

    def _fetch(self, slot: _Slot) -> None:
        if slot.written is None or slot.fetched is not None or self._copies is None:
            return
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.written)
            slot.fetched = slot.host.to(slot.device, non_blocking=True)
            slot.arrived = torch.cuda.Event()
            slot.arrived.record(self._copies)

    def _arrive(self, slot: _Slot) -> Tensor:
        if slot.written is None:
            return slot.host
        self._fetch(slot)
        assert slot.fetched is not None
        assert slot.arrived is not None
        current = torch.cuda.current_stream(slot.device)
        current.wait_event(slot.arrived)
        slot.fetched.record_stream(current)
        return slot.fetched
