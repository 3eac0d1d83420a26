"""Keeps frozen tokens in host memory between the forward and the backward pass.

On a GPU the copies run on a stream of their own and overlap with the next blocks: out, while the forward pass goes on;
back, one tensor ahead of the backward pass, which asks for them in reverse order. The processor runs far ahead of the
GPU, so it waits for the copy before last: else everything that is still to be copied would hold its memory. On other
devices the tokens stay where they are, and nothing is gained.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_LEAVING = 2


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
        self._leaving: deque[tuple[Tensor, torch.cuda.Event]] = deque()

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
        self._slots[handle] = _Slot(host, tokens.device, written)
        # held until it is copied, and no more than a few at a time
        self._leaving.append((tokens, written))
        self._let_go(MOST_LEAVING)
        return handle

    def get(self, handle: int) -> Tensor:
        """The tensor on its device again; it leaves the store, and the one put before it sets out."""
        self._let_go(0)
        slot = self._slots.pop(handle)
        tokens = self._arrive(slot)
        if handle - 1 in self._slots:
            self._fetch(self._slots[handle - 1])
        return tokens

    def _let_go(self, most: int) -> None:
        while len(self._leaving) > most:
            _, written = self._leaving.popleft()
            written.synchronize()

    def _fetch(self, slot: _Slot) -> None:
        if slot.written is None or slot.fetched is not None or self._copies is None:
            return
        # memory of the stream that uses it, so that it can be used again there; whatever had it before must be done
        slot.fetched = torch.empty(slot.host.shape, dtype=slot.host.dtype, device=slot.device)
        self._copies.wait_stream(torch.cuda.current_stream(slot.device))
        with torch.cuda.stream(self._copies):
            slot.fetched.copy_(slot.host, non_blocking=True)
            slot.arrived = torch.cuda.Event()
            slot.arrived.record(self._copies)

    def _arrive(self, slot: _Slot) -> Tensor:
        if slot.written is None:
            return slot.host
        self._fetch(slot)
        assert slot.fetched is not None
        assert slot.arrived is not None
        torch.cuda.current_stream(slot.device).wait_event(slot.arrived)
        return slot.fetched
