"""Reads a released checkpoint into a flat float32 state dict, without unpickling anything but tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from side4video.backbones.weights_errors import DAMAGE, check_archive, damage_reason
from side4video.errors import CheckpointError

WRAPPERS = ("model_state_dict", "state_dict", "model", "module")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: the model's tensors, floating ones in float32, and the names of what lies beside them."""

    tensors: dict[str, Tensor]
    beside: tuple[str, ...] = ()


def read_checkpoint(source: Mapping[str, Any] | str | Path) -> dict[str, Tensor]:
    """The tensors of `open_checkpoint`.

    Raises:
        CheckpointError: as `open_checkpoint`.
    """
    return open_checkpoint(source).tensors


def open_checkpoint(source: Mapping[str, Any] | str | Path) -> Checkpoint:
    """A state dict or a file without its wrapper, without a leading `module.`.

    Raises:
        CheckpointError: no such file, a damaged one, one that holds more than tensors and plain containers, one in
            which no state dict can be found, or the same name with and without `module.`.
    """
    content = _read_file(Path(source)) if isinstance(source, str | Path) else source
    beside: tuple[str, ...] = ()
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            beside = tuple(sorted(str(name) for name in content if name != wrapper))
            content = inner
            break
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        plain = str(name).removeprefix("module.")
        if plain in tensors:
            raise CheckpointError(f"the state dict has {plain} twice, with and without module. in front")
        if isinstance(value, Tensor):
            tensors[plain] = value.float() if value.is_floating_point() else value
    if not tensors or len(tensors) != len(content):
        odd = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
        raise CheckpointError(f"a state dict must map names to tensors; these are none: {odd[:5] or 'it is empty'}")
    return Checkpoint(tensors, beside)


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        check_archive(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {damage_reason(error)}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return content
