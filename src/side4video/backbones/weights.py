"""Reading a weights file of somebody else's model, and loading it so that nothing is left at random.

Files come as safetensors or `.pt`/`.pth`/`.bin` (read with `weights_only`, nothing is unpickled), often wrapped: under
`state_dict` or `model`, with `module.` before every key, or as the `visual.` part of a CLIP.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file
from torch import Tensor, nn

from side4video.backbones.mapped import load_mapped
from side4video.backbones.weights_errors import DAMAGE, check_archive, damage_reason
from side4video.errors import CheckpointError

_log = logging.getLogger(__name__)

State = dict[str, Tensor]
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher", "encoder")
_PREFIXES = ("module.", "model.", "backbone.")


def read_weights(path: str | Path) -> State:
    """All tensors of a weights file, without the wrappers around them, on the CPU; most are read when they are used.

    Raises:
        CheckpointError: when there is no such file, or it cannot be read safely, or it holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weights: no such file: {path}")
    try:
        check_archive(path)
        found: Any = load_file(path) if path.suffix == ".safetensors" else load_mapped(path)
    except DAMAGE as error:
        raise CheckpointError(
            f"weights: cannot read {path} as safetensors or as plain tensors ({damage_reason(error)}); pickled code "
            "and TorchScript archives are refused: save the state dict alone, best as safetensors"
        ) from error
    state = _without_prefix(_tensors(found))
    if not state:
        raise CheckpointError(f"weights: {path} holds no tensors")
    return state


def tower_part(state: State, *, tower: nn.Module) -> State:
    """The entries of a CLIP's image tower, or all of them when the file holds the tower alone."""
    inner = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    own = set(tower.state_dict())
    return inner if inner and not own & set(state) else state


def timm_state(state: State, model: nn.Module) -> State:
    """A file's entries as the timm model names and shapes them: timm's own conversion, positions resampled.

    Raises:
        CheckpointError: when the file is of another kind of model, so that the conversion fails.
    """
    for prefix in ("visual.trunk.", "trunk."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn_encoder", None)
    if convert is None:
        return state
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        return dict(convert(dict(state), model, **options))
    except (KeyError, RuntimeError, AttributeError, ValueError, AssertionError, IndexError) as error:
        raise CheckpointError(f"weights: the file does not fit {type(model).__name__}: {error}") from error


def load_whole(model: nn.Module, state: State, *, path: str | Path, name: str) -> None:
    """Load what the model needs; what else the file has (a classifier, a text tower) is named in the log.

    A model built `without_values` takes the file's own tensors, in their precision: see `own_weights`.

    Raises:
        CheckpointError: when an entry is missing or has another shape.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    if missing:
        raise CheckpointError(
            f"weights: {path} lacks {len(missing)} of the {len(own)} tensors of {name}, such as {_some(missing)}; "
            f"the file has {_some(list(state))}"
        )
    wrong = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if state[key].shape != own[key].shape
    ]
    if wrong:
        raise CheckpointError(f"weights: {path} does not fit {name}: {_some(wrong)}")
    extra = [key for key in state if key not in own]
    if extra:
        _log.info("weights: %d tensors of %s are not part of the image model: %s", len(extra), path, _some(extra))
    empty = any(parameter.is_meta for parameter in model.parameters())
    model.load_state_dict({key: state[key] for key in own}, assign=empty)


def _tensors(found: Any) -> State:
    if not isinstance(found, Mapping):
        return {}
    entries = cast("Mapping[str, Any]", found)
    for wrapper in _WRAPPERS:
        if isinstance(entries.get(wrapper), Mapping):
            inner = _tensors(entries[wrapper])
            if inner:
                return inner
    return {str(key): value for key, value in entries.items() if isinstance(value, Tensor)}


def _without_prefix(state: State) -> State:
    for prefix in _PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        # a self-supervised teacher has its head beside the backbone; elsewhere a prefix is one only when all have it
        if inner and (len(inner) == len(state) or prefix == "backbone."):
            return _without_prefix(inner)
    return state


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
