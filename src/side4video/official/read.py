"""Reads a released checkpoint into a flat float32 state dict, without unpickling anything but tensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from side4video.errors import CheckpointError

WRAPPERS = ("model_state_dict", "state_dict", "model", "module")


def read_checkpoint(source: Mapping[str, Any] | str | Path) -> dict[str, Tensor]:
    """Names to tensors, floating ones in float32, without wrappers and without a leading `module.`.

    Raises:
        CheckpointError: no such file, a damaged one, one that holds more than tensors and plain containers, or one in
            which no state dict can be found.
    """
    content = _read_file(Path(source)) if isinstance(source, str | Path) else source
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            content = inner
            break
    tensors = {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) != len(content):
        odd = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
        raise CheckpointError(f"a state dict must map names to tensors; these are none: {odd[:5] or 'it is empty'}")
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return content
