"""The variants of a sweep: every combination of the values that its settings take, by name, and which of them can share
a frozen forward pass.

Nothing here imports torch: a wrong word is found before anything is loaded.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from side4video.config.describe import describe_allowed, known_settings
from side4video.config.schema import RunSettings
from side4video.errors import ConfigError

MAX_VARIANTS = 256
# the processes and the arithmetic of a sweep are those of all its variants
FIXED = frozenset({"task", "train.devices", "train.accelerator", "train.precision"})
# what variants over one frozen forward may differ in; everything else is the backbone's, the data's or the process's
_OWN_GROUPS = ("side.", "optim.", "head.")
_OWN_SETTINGS = frozenset(
    {
        "memory",
        "train.compile",
        "train.evaluate_every",
        "train.save_every_steps",
        "train.early_stop",
        "train.loggers",
    }
)
_OPENING, _CLOSING = "[({", "])}"


@dataclass(frozen=True)
class Variant:
    """One combination: its name, which is also its folder's, the values that tell it from the others, as text by dotted
    name, and all its settings."""

    name: str
    values: dict[str, str]
    settings: RunSettings


def split_values(text: str) -> list[str]:
    """The values between commas; a comma inside brackets belongs to a list."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def expand(overrides: Mapping[str, str], settings_of: Callable[[dict[str, str]], RunSettings]) -> list[Variant]:
    """Every combination of the values in `overrides`, the last setting changing fastest; `settings_of` reads each.

    Raises:
        ConfigError: a value that is not allowed, a setting that must be the same for all, or too many combinations.
    """
    choices = {key: split_values(text) for key, text in overrides.items()}
    axes = [key for key, values in choices.items() if len(values) > 1]
    for key in axes:
        if key in FIXED:
            raise ConfigError(
                f"{key}: must be the same in the whole sweep; got {overrides[key]}. Run one sweep for each"
            )
        repeated = [value for value, count in Counter(choices[key]).items() if count > 1]
        if repeated or "" in choices[key]:
            raise ConfigError(
                f"{key}: values must differ and not be empty; got {overrides[key]}. A list goes into brackets: [1,3]"
            )
    count = 1
    for key in axes:
        count *= len(choices[key])
    if count > MAX_VARIANTS:
        raise ConfigError(f"a sweep may have {MAX_VARIANTS} variants; got {count}")
    short = _short_names(axes)
    variants: list[Variant] = []
    for combination in itertools.product(*choices.values()):
        words = dict(zip(choices, combination, strict=True))
        values = {key: words[key] for key in axes}
        name = "_".join(f"{short[key]}-{_plain(value)}" for key, value in values.items()) or "only"
        try:
            settings = settings_of(words)
        except ConfigError as error:
            shown = " ".join(f"{key}={value}" for key, value in values.items())
            listed = [key for key in axes if key in str(error) and _is_list(key)]
            hint = " (in a sweep a comma separates values: a list goes into brackets)" if listed else ""
            raise ConfigError(f"{shown}: {error}{hint}" if values else str(error)) from error
        variants.append(Variant(name, values, settings))
    repeated = [name for name, count in Counter(v.name for v in variants).items() if count > 1]
    if repeated:
        raise ConfigError(f"two variants would have the same folder: {repeated[0]}; write their values differently")
    return variants


def share_groups(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Variants that can train over one frozen forward pass, together; in the order in which they come.

    They agree in backbone, data, seed and processes. Retrieval trains beside the text tower: there each goes alone.
    """
    groups: dict[Any, list[Variant]] = {}
    for variant in variants:
        key = variant.name if variant.settings.task == "retrieval" else _shared_key(variant.settings)
        groups.setdefault(key, []).append(variant)
    return list(groups.values())


def differing(variants: Sequence[Variant]) -> list[str]:
    """The settings in which the variants differ, as dotted names."""
    return list(dict.fromkeys(key for variant in variants for key in variant.values))


def _shared_key(settings: RunSettings) -> str:
    values = settings.model_dump(mode="json")
    shared = {
        key: _at(values, key)
        for key in known_settings()
        if key not in _OWN_SETTINGS and not key.startswith(_OWN_GROUPS)
    }
    # the frames that a block runs over at a time follow the memory mode, where they are not set
    modes = {"balanced": "lean"}
    slices = modes.get(settings.memory, settings.memory) if settings.backbone.frame_slice is None else None
    return repr((sorted(shared.items()), slices))


def _at(values: dict[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of a dotted name, where that is enough to tell."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key.replace(".", "-") for key in keys}


def _is_list(key: str) -> bool:
    allowed = describe_allowed(known_settings()[key])
    return "list of" in allowed or " as [" in allowed


def _plain(value: str) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.+]+", "-", value).strip("-") or "none"
