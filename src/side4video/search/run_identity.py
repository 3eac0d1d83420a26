"""Which model made a vector: hashes of the frozen backbone and of everything that was trained, from a run folder.

Vectors of two models cannot be compared, so whatever stores vectors stores this beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from side4video.errors import CheckpointError
from side4video.training.checkpoint import BACKBONE, TEXT, WEIGHTS
from side4video.training.files import read_json

_HASHES = ("backbone_hash", "weights_hash", "text_hash")


def run_identity(run: Path) -> dict[str, Any]:
    """Plain JSON values: the backbone's name, `backbone_hash`, `weights_hash`, and `text_hash` of a frozen text tower.

    The same for a copy of the run elsewhere; another after further training.

    Raises:
        CheckpointError: the run has no weights, or is damaged.
    """
    backbone = _record(run / BACKBONE)
    try:
        with (run / WEIGHTS).open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{run / WEIGHTS}: {error.strerror or error}") from None
    text = _record(run / TEXT)["hash"] if (run / TEXT).is_file() else None
    return {
        "backbone": backbone["name"],
        "backbone_hash": backbone["hash"],
        "weights_hash": weights,
        "text_hash": text,
    }


def same_model(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two identities are of one model, wherever it lies."""
    return all(first.get(key) == second.get(key) for key in _HASHES)


def describe_model(identity: Mapping[str, Any]) -> str:
    """An identity in a few words, for messages."""
    hashes = [str(identity.get(key))[:12] for key in _HASHES[:2]]
    return f"backbone {identity.get('backbone')!r} {hashes[0]}, weights {hashes[1]}"


def _record(path: Path) -> dict[str, Any]:
    saved = read_json(path)
    if not isinstance(saved, dict) or not {"name", "hash"} <= saved.keys():
        raise CheckpointError(f"{path}: damaged: must hold a name and a hash")
    return cast("dict[str, Any]", saved)
