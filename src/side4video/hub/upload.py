"""A run to the hub, or to a folder that looks like it: what was trained, how, and a page about it. Never data.

What goes up is a list: weights of side network and head, settings, class names, the records of backbone and pixels,
metrics, and where the run comes from. Paths, the command line and the machine's name stay here; so do videos, lists of
them, thumbnails, reports and logs, and the frozen weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from side4video.config.load import dump_settings
from side4video.config.schema import RunSettings
from side4video.errors import CheckpointError, ConfigError
from side4video.hub.calls import asking, is_online, why_offline
from side4video.hub.card import CardFacts, as_json, model_card
from side4video.hub.download import check_settings, check_shared_run, names_file, shared_class_names
from side4video.hub.names import (
    BACKBONE,
    CARD,
    CLASSES,
    CONFIG,
    METRICS,
    PREPROCESSING,
    RUN,
    TEXT,
    WEIGHTS,
    parse_hub_name,
)
from side4video.training.checkpoint import OWN_BACKBONE, RunFolder
from side4video.training.files import read_json, write_bytes

# of run.json; its command line and whatever comes later stay here
_PROVENANCE = (
    "status", "epochs", "steps", "train_videos", "seconds", "seed", "processes", "precision", "backbone_precision",
    "side4video", "python", "versions", "started",
)  # fmt: skip
_HARDWARE = ("processor", "cores", "threads", "gpus")
_LOCAL_DATA = ("train", "val", "root", "classes")


def shared_files(
    run: str | Path,
    repository: str,
    *,
    backbone_licence: str | None = None,
    licence: str | None = None,
    peak_bytes: int | None = None,
) -> dict[str, bytes | Path]:
    """The files of a run that may be shared, by name: their content, or where it lies.

    Raises:
        CheckpointError: no finished run, a damaged one, or one whose backbone nobody else can have.
    """
    folder = RunFolder(run)
    settings = folder.settings()
    if (folder.path / OWN_BACKBONE).is_file():
        raise CheckpointError(
            f"{folder.path}: keeps frozen weights of its own ({OWN_BACKBONE}), which are not ours to share, and nobody "
            "could use the run without them; convert the checkpoint without --keep-backbone"
        )
    check_settings(shared_settings(settings), str(folder.path))
    weights = folder.path / WEIGHTS
    count, size = _count(weights)
    backbone = read_json(folder.path / BACKBONE)
    names = shared_class_names(folder.path / CLASSES, str(folder.path)) if settings.task == "recognition" else []
    metrics = _optional(folder.path / METRICS)
    provenance = _reduced(_optional(folder.path / RUN))
    facts = CardFacts(
        repository=repository,
        settings=settings,
        backbone=backbone,
        backbone_licence=backbone_licence,
        trained_parameters=count,
        weight_bytes=size,
        class_names=names,
        metrics=metrics,
        provenance=provenance,
        peak_bytes=peak_bytes,
        licence=licence,
        own_weights=settings.backbone.weights is not None,
    )
    files: dict[str, bytes | Path] = {
        CARD: model_card(facts).encode(),
        CONFIG: dump_settings(shared_settings(settings)).encode(),
        BACKBONE: as_json(backbone),
        WEIGHTS: weights,
    }
    if names:
        files[CLASSES] = as_json(names)
    for name in (PREPROCESSING, TEXT):
        if (folder.path / name).is_file():
            files[name] = as_json(read_json(folder.path / name))
    if metrics:
        files[METRICS] = as_json(metrics)
    if provenance:
        files[RUN] = as_json(provenance)
    return files


def shared_settings(settings: RunSettings) -> RunSettings:
    """Settings without places on this machine."""
    pairs = None if names_file(settings.data.flip_pairs) else settings.data.flip_pairs
    data = settings.data.model_copy(update=dict.fromkeys(_LOCAL_DATA) | {"flip_pairs": pairs})
    backbone = settings.backbone.model_copy(update={"weights": None, "compile": False})
    cache = settings.cache.model_copy(update={"dir": None})
    return settings.model_copy(update={"data": data, "backbone": backbone, "cache": cache})


def write_shared(files: Mapping[str, bytes | Path], folder: Path) -> Path:
    """The same files in a new folder: to look at, or to be put on the hub by other means.

    Raises:
        ConfigError: the folder is in use.
        CheckpointError: the run is not one that `fetch_run` would accept.
        OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"OUT {folder}: is there already, and nothing is overwritten; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content.read_bytes() if isinstance(content, Path) else content)
    check_shared_run(folder, str(folder))
    return folder


def upload(files: Mapping[str, bytes | Path], name: str, *, private: bool = False, token: str | None = None) -> str:
    """Put the files on the hub in one commit, in a repository that is made where there is none; its address.

    A revision in the name is a branch, which must be there. The token is the argument, HF_TOKEN or that of `hf auth
    login`; it is never shown.

    Raises:
        ConfigError: a name of another form.
        CheckpointError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    wanted = parse_hub_name(name)
    if not is_online():
        raise CheckpointError(f"{wanted}: nothing was uploaded: {why_offline()}")
    api = HfApi(endpoint=constants.ENDPOINT, library_name="side4video")
    operations = [
        CommitOperationAdd(file, str(content) if isinstance(content, Path) else content)
        for file, content in files.items()
    ]
    with asking(f"{wanted}: nothing was uploaded", token):
        made = api.create_repo(wanted.repository, private=private, exist_ok=True, token=token)
        api.create_commit(
            wanted.repository,
            operations,
            commit_message="Run of side4video",
            revision=wanted.revision,
            token=token,
        )
    return str(made)


def _count(weights: Path) -> tuple[int, int]:
    try:
        with safetensors.safe_open(str(weights), framework="pt") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 - it is no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{weights}: missing or damaged: {error}") from None
    total = 0
    for shape in shapes:
        count = 1
        for size in shape:
            count *= size
        total += count
    return total, weights.stat().st_size


def _optional(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _reduced(provenance: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: provenance[key] for key in _PROVENANCE if key in provenance}
    hardware = provenance.get("hardware")
    if isinstance(hardware, Mapping):
        found["hardware"] = {key: hardware[key] for key in _HARDWARE if key in hardware}
    return found
