"""Runs to the hub and back: `push_to_hub` and `from_pretrained`."""

from __future__ import annotations

from pathlib import Path

import torch

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.licences import licence_of
from side4video.build import estimate_run, load_run
from side4video.errors import Side4VideoError
from side4video.hub.download import fetch_run
from side4video.hub.names import parse_hub_name
from side4video.hub.upload import shared_files, upload, write_shared
from side4video.tasks.base import TrainedModel
from side4video.training.checkpoint import RunFolder


def from_pretrained(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    device: torch.device | str | None = None,
    backbone: FrozenBackbone | None = None,
) -> TrainedModel:
    """The model of a run on the hub, `ORG/NAME`, or of a run folder; in eval mode, as `load` gives it.

    What comes from the hub is taken for a stranger's: only safetensors, JSON and plain YAML are read, sizes are
    checked, and the backbone must be the one that the run was trained on, by its hash.

    Raises:
        ConfigError: a name of another form.
        CheckpointError: not to be had, no run, damaged, or one that asks for more than a run may.
        BackboneError: the run's backbone cannot be had here.
    """
    if Path(name_or_folder).is_dir():
        return load_run(name_or_folder, device=device, backbone=backbone)
    name = str(name_or_folder) if revision is None else f"{name_or_folder}@{revision}"
    return load_run(fetch_run(name, token=token), device=device, backbone=backbone)


def push_to_hub(
    run: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Share what a run trained, with a page about it; the address of the page.

    `repo_id` is `ORG/NAME`, with `@BRANCH` where one is meant. `license` is that of what you trained, as the hub spells
    it (`mit`, `cc-by-4.0`). Weights of side network and head go up, settings without paths, class names, metrics and
    records; no data, no frozen weights. `load("hf:ORG/NAME")` reads it back.

    Raises:
        ConfigError: a name of another form.
        CheckpointError: no finished run, one that nobody else could use, or the hub cannot be reached or refuses.
    """
    files = _files(run, parse_hub_name(repo_id).repository, license)
    return upload(files, repo_id, private=private, token=token)


def save_for_hub(run: str | Path, folder: str | Path, *, license: str | None = None) -> Path:
    """The files that `push_to_hub` would upload, in a new folder: to look at, or to upload by other means.

    Raises:
        ConfigError: the folder is in use.
        CheckpointError: as `push_to_hub`.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    return write_shared(_files(run, f"local/{folder.name}", license), folder)


def _files(run: str | Path, repository: str, license: str | None) -> dict[str, bytes | Path]:
    settings = RunFolder(run).settings()
    return shared_files(
        run,
        repository,
        backbone_licence=licence_of(settings.backbone.name),
        licence=license,
        peak_bytes=_peak_bytes(run),
    )


def _peak_bytes(run: str | Path) -> int | None:
    """What a training step takes on a card, where that can be predicted."""
    folder = RunFolder(run)
    settings = folder.settings()
    if settings.task != "recognition":
        return None
    try:
        estimate = estimate_run(settings, len(folder.class_names()))(settings.memory, settings.data.batch_size)
    except Side4VideoError:
        return None
    return estimate.peak_bytes
