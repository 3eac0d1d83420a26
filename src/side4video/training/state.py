"""Everything of a training run that changes, as tensors and JSON values, and how it is put back bit for bit."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from side4video.errors import CheckpointError
from side4video.tasks.base import TrainedModel
from side4video.training.ema import copy_into
from side4video.training.optim import ParameterGroup

STATE_VERSION = 1


@dataclass
class Progression:
    """Where a run stands. All counts are of all processes together; `epoch` and `batch` are the next ones to do.

    `loss_sum`, `correct` and `clips` are the epoch's so far; `seconds` is the time spent training, over all sessions.
    `best_top1` is the best of whatever the task is judged by: top-1, or in retrieval R@1 from text to video.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    clips: float = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best_top1: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    without_better: int = 0
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives back an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progression:
        """What `as_json` gave.

        Raises:
            CheckpointError: missing or unknown values.
        """
        if set(values) != {f.name for f in fields(cls)}:
            raise CheckpointError("the resume state is of another version of side4video; start anew")
        return cls(**values)


def optimizer_tensors(optimizer: torch.optim.Optimizer, groups: list[ParameterGroup]) -> dict[str, Tensor]:
    """The optimiser's moments by parameter name: `exp_avg/side.position` and so on."""
    tensors: dict[str, Tensor] = {}
    for group in groups:
        for name, parameter in zip(group.names, group.parameters, strict=True):
            for kind, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{kind}/{name}"] = value
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, groups: list[ParameterGroup], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        CheckpointError: moments of a parameter that does not train here, or of another shape.
    """
    by_name = {name: p for group in groups for name, p in zip(group.names, group.parameters, strict=True)}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        parameter = by_name.get(name)
        if parameter is None or (value.dim() and value.shape != parameter.shape):
            raise CheckpointError(f"the saved optimiser does not fit: {key} of shape {tuple(value.shape)}")
        # AdamW keeps its step counter on the device only when fused, where it is float32 on the parameter's device
        target = parameter.device if kind != "step" or optimizer.defaults.get("fused") else torch.device("cpu")
        # a copy: what comes from a file is not aligned as torch aligns its own tensors
        optimizer.state[parameter][kind] = value.to(target, copy=True)


def restore_weights(model: TrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Put everything that trains back in place, without making new tensors.

    Raises:
        CheckpointError: other names or shapes.
    """
    copy_into(model.trainable_state(), tensors)


def random_state(device: torch.device) -> dict[str, Any]:
    """The global generators of this process as JSON values."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": _hex(torch.get_rng_state()),
        "device": _hex(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
        "numpy": [np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the global generators of this process back."""
    torch.set_rng_state(_unhex(state["torch"]))
    if device.type == "cuda" and state["device"] is not None:
        torch.cuda.set_rng_state(_unhex(state["device"]), device)
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def seeded(seed: int, device: torch.device) -> Generator[None]:
    """Inside, the global generators start from `seed`; afterwards they are as they were before."""
    before = random_state(device)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        restore_random_state(before, device)


class RandomStream:
    """Global generators of its own, from `seed`: inside a `with` they are in force, and keep what was drawn."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with seeded(seed, device):
            self._own = _global_state(device)
        self._outer = self._own

    def __enter__(self) -> RandomStream:
        self._outer = _global_state(self._device)
        _set_global_state(self._own, self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self._own = _global_state(self._device)
        _set_global_state(self._outer, self._device)


def _global_state(device: torch.device) -> tuple[Any, ...]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device, np.random.get_state(), random.getstate()


def _set_global_state(state: tuple[Any, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
    np.random.set_state(state[2])
    random.setstate(state[3])


def _hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _unhex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
