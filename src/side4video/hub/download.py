"""A run from the hub, in the cache of huggingface_hub. What comes down was written by a stranger, and is checked.

Only the files of a run are fetched, each no larger than such a file can be. Weights are safetensors, the rest JSON and
plain YAML: nothing is unpickled or executed. The settings may name a public backbone and no file of this machine, and
no sizes that would fill the memory before the weights are found not to fit. That the backbone is the right one is
checked by its hash when the run is loaded.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any, cast

import yaml

from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.errors import CheckpointError, ConfigError
from side4video.hub.calls import asking, is_online, why_offline
from side4video.hub.names import (
    BACKBONE,
    CLASSES,
    CONFIG,
    METRICS,
    PREPROCESSING,
    RUN,
    TEXT,
    WEIGHTS,
    is_hub_name,
    parse_hub_name,
)

MEGABYTE = 1 << 20
LIMITS = {
    CONFIG: MEGABYTE // 16,
    BACKBONE: MEGABYTE // 16,
    PREPROCESSING: MEGABYTE // 16,
    TEXT: MEGABYTE // 16,
    CLASSES: 16 * MEGABYTE,
    METRICS: 64 * MEGABYTE,
    RUN: MEGABYTE,
    WEIGHTS: 16 << 30,
}
NEEDED = (CONFIG, BACKBONE, WEIGHTS)
_HEADER_BYTES = 16 * MEGABYTE
_MAX_DEPTH = 8
_MAX_FRAMES, _MAX_IMAGE, _MAX_NAME = 1024, 2048, 1000
# no second colon (timm and open_clip would take other people's repositories there), and no path
_BACKBONE = re.compile(r"tiny-clip|timm:[A-Za-z0-9_.-]+|open_clip:[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")


def local_run(run: str | Path, *, token: str | None = None) -> Path:
    """The folder of a run: a path as it is, `hf:ORG/NAME` downloaded (or found in the cache) and checked.

    Raises:
        ConfigError: a name of another form.
        CheckpointError: it cannot be had, or it is not what a run may be.
    """
    return fetch_run(run, token=token) if is_hub_name(run) else Path(run)


def fetch_run(name: str | Path, *, token: str | None = None) -> Path:
    """The folder of a run on the hub; without a connection, of what is in the cache.

    Raises:
        ConfigError: a name of another form.
        CheckpointError: it cannot be had, or it is not what a run may be.
    """
    wanted = parse_hub_name(name)
    online = is_online()
    folders: set[Path] = set()
    for file, limit in LIMITS.items():
        try:
            found = _fetch(str(wanted), wanted.repository, wanted.revision, file, limit, token, online=online)
        except _NotThereError:
            if file in NEEDED:
                reason = f"it has no {file}, so it is not a run" if online else f"not in the cache, and {why_offline()}"
                raise CheckpointError(f"{wanted}: {reason}") from None
            continue
        folders.add(found.parent)
    if len(folders) > 1:
        raise CheckpointError(f"{wanted}: the repository changed while it was read; try again")
    (folder,) = folders
    check_shared_run(folder, str(wanted))
    return folder


def check_shared_run(folder: Path, name: str) -> None:
    """Refuse a run of a stranger that asks for more than a run may.

    Raises:
        CheckpointError: saying what.
    """
    for file, limit in LIMITS.items():
        path = folder / file
        if path.exists() and path.stat().st_size > limit:
            raise CheckpointError(f"{name}: {file} is {path.stat().st_size} bytes, more than the allowed {limit}")
    settings = _settings(folder / CONFIG, name)
    check_settings(settings, name)
    shapes = _shapes(folder / WEIGHTS, name)
    width = settings.side.width
    _check_shape(shapes, "side.blocks.0.mlp.fc1.weight", (4 * width, width), name, f"side.width={width}")
    if settings.task == "recognition":
        names = shared_class_names(folder / CLASSES, name)
        _check_shape(shapes, "head.weight", (len(names), width), name, f"{len(names)} class names")
    elif settings.retrieval.interaction_width is not None and settings.retrieval.interaction == "wti":
        hidden = settings.retrieval.interaction_width
        own = shapes.get("wti.text_weights.hidden.weight", ())
        if own[:1] != (hidden,):
            raise CheckpointError(f"{name}: its weights do not fit retrieval.interaction_width={hidden}")


class _NotThereError(Exception):
    pass


def _fetch(
    name: str, repository: str, revision: str | None, file: str, limit: int, token: str | None, *, online: bool
) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    with asking(name, token):
        try:
            if online:
                url = hf_hub_url(repository, file, revision=revision)
                size = get_hf_file_metadata(url, token=token).size
                if size is None or size > limit:
                    raise CheckpointError(f"{name}: {file} is {size} bytes, more than the allowed {limit}")
            found = hf_hub_download(repository, file, revision=revision, token=token, local_files_only=not online)
        except EntryNotFoundError:
            pass
        else:
            return Path(found)
    raise _NotThereError


def _settings(path: Path, name: str) -> RunSettings:
    try:
        text = path.read_text(encoding="utf-8")
        _check_plain(text, name)
        return load_settings(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigError, RecursionError) as error:
        raise CheckpointError(f"{name}: {CONFIG} is damaged: {str(error).splitlines()[0][:200]}") from None


def _check_plain(text: str, name: str) -> None:
    """Refuse YAML that is small and costs much: aliases of aliases, and deep nests."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH:
            raise CheckpointError(f"{name}: {CONFIG} has YAML aliases or nests deeply, which no run's does")


def check_settings(settings: RunSettings, name: str) -> None:
    """Refuse settings that need something that only one machine has, or too much.

    Raises:
        CheckpointError: saying what.
    """
    backbone, data = settings.backbone, settings.data
    if not _BACKBONE.fullmatch(backbone.name) or ".." in backbone.name:
        raise CheckpointError(f"{name}: its backbone {backbone.name!r} is not one that everybody can have")
    local = {
        "backbone.weights": backbone.weights,
        "cache.dir": settings.cache.dir,
        **{f"data.{key}": getattr(data, key) for key in ("train", "val", "root", "classes")},
        "data.flip_pairs": data.flip_pairs if names_file(data.flip_pairs) else None,
    }
    named = [key for key, value in local.items() if value is not None]
    if named:
        raise CheckpointError(f"{name}: its settings name files of another machine: {', '.join(named)}")
    if backbone.compile:
        raise CheckpointError(f"{name}: its settings ask for a compiler (backbone.compile)")
    for key, value, most in (
        ("data.num_frames", data.num_frames, _MAX_FRAMES),
        ("backbone.image_size", backbone.image_size or 0, _MAX_IMAGE),
    ):
        if value > most:
            raise CheckpointError(f"{name}: {key}={value} is more than the allowed {most}")


def names_file(flip_pairs: object) -> bool:
    """Whether label pairs are in a file."""
    return isinstance(flip_pairs, str) and flip_pairs != "something"


def shared_class_names(path: Path, name: str) -> list[str]:
    """Class names, all of them text that may be shown.

    Raises:
        CheckpointError: missing, damaged, or names that are too long or not printable.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: {CLASSES} is missing or damaged ({type(error).__name__})") from None
    if not isinstance(names, list) or not names:
        raise CheckpointError(f"{name}: {CLASSES} must be a list of class names")
    for entry in cast("list[Any]", names):
        if not isinstance(entry, str) or len(entry) > _MAX_NAME or not entry.isprintable():
            raise CheckpointError(f"{name}: {CLASSES} has a name that is too long or not printable: {entry!r:.80}")
    return cast("list[str]", names)


def _shapes(path: Path, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file, from its header alone."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_BYTES:
                raise CheckpointError(f"{name}: {WEIGHTS} has a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        return {key: tuple(value["shape"]) for key, value in header.items() if key != "__metadata__"}
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{name}: {WEIGHTS} is missing or damaged ({type(error).__name__})") from None


def _check_shape(
    shapes: dict[str, tuple[int, ...]], key: str, wanted: tuple[int, ...], name: str, because: str
) -> None:
    if shapes.get(key) != wanted:
        found = "missing" if key not in shapes else f"of shape {shapes[key]}"
        raise CheckpointError(f"{name}: its weights do not fit {because}: {key} is {found}, and must be {wanted}")
