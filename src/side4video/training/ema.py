"""Exponential moving average of what trains: weights and float buffers; counters are copied."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from side4video.errors import CheckpointError


class MovingAverage:
    """Averages of named tensors that some model keeps changing: `average = decay * average + (1 - decay) * now`.

    Early on the decay is `(1 + steps) / (10 + steps)` when that is smaller, so that the random start is forgotten.

    Raises:
        ValueError: a decay outside 0..1.
    """

    def __init__(self, state: Mapping[str, Tensor], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the EMA decay must lie between 0 and 1; got {decay}")
        self.decay = decay
        self.averages = {name: value.detach().clone() for name, value in state.items()}

    @torch.no_grad()
    def update(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take in the values after `steps` optimiser steps (1 after the first)."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, average in self.averages.items():
            now = state[name].detach()
            if average.is_floating_point():
                average.lerp_(now, 1 - decay)
            else:
                average.copy_(now)

    def restore(self, averages: Mapping[str, Tensor]) -> None:
        """Put saved averages back.

        Raises:
            CheckpointError: other names or shapes.
        """
        copy_into(self.averages, averages)

    @contextmanager
    def applied_to(self, state: Mapping[str, Tensor]) -> Generator[None]:
        """Inside, the model's tensors hold the averages; afterwards their own values again."""
        own = {name: value.detach().clone() for name, value in state.items()}
        copy_into(state, self.averages)
        try:
            yield
        finally:
            copy_into(state, own)


@torch.no_grad()
def copy_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Overwrite the target's tensors in place; names and shapes must match.

    Raises:
        CheckpointError: other names or shapes; nothing has been changed then.
    """
    if target.keys() != source.keys():
        raise CheckpointError(
            f"the saved tensors do not fit: they differ in {sorted(target.keys() ^ source.keys())[:3]}"
        )
    for name, value in target.items():
        if value.shape != source[name].shape:
            raise CheckpointError(
                f"the saved tensors do not fit: {name} is {tuple(source[name].shape)}, expected {tuple(value.shape)}"
            )
    for name, value in target.items():
        value.copy_(source[name])
