"""Writing files so that a crash at any moment leaves the old content or the new, never a mixture."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from side4video.errors import CheckpointError

_PARTIAL = ".partial"


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written beside it, flushed to the disk, then renamed over it.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        # a write that finds the disk full does not say where
        error.filename = error.filename or str(path)
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of JSON that reads back to exactly the same numbers.

    Raises:
        OSError: as `write_bytes`.
    """
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """`write_bytes` of tensors from any device, as safetensors.

    Raises:
        OSError: as `write_bytes`.
    """
    # serialised in memory: the library's own file writer neither flushes to the disk nor reports a full one as OSError
    write_bytes(path, safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))


def read_json(path: Path) -> Any:
    """The JSON in `path`.

    Raises:
        CheckpointError: the file is missing, unreadable or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, unreadable or damaged.
    """
    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None


def write_folder(folder: Path, contents: Mapping[str, Mapping[str, Tensor] | Any]) -> None:
    """Make a new `folder` with `contents` (tensors for `*.safetensors`, else JSON), complete or not at all.

    Raises:
        OSError: the disk is full or cannot be written; nothing named `folder` has appeared.
    """
    partial = folder.with_name(f"{folder.name}{_PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, value in contents.items():
            (write_tensors if name.endswith(".safetensors") else write_json)(partial / name, value)
        sync_folder(partial)
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut (not every system can)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
