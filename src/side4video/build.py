"""Settings to objects: the one place that knows both. Builds backbone, model and data, runs a training, loads a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.create import create_backbone
from side4video.backbones.sharded import num_processes
from side4video.build_cache import cached_loaders
from side4video.build_recognition import build_data, build_loaders, build_manifests, pixel_format, train_transform
from side4video.build_retrieval import (
    build_caption_data,
    build_caption_sets,
    build_text_model,
    build_tokenizer,
    eval_captions_loader,
    train_captions_loader,
    warn_without_effect,
)
from side4video.build_zero_shot import start_head_from_text
from side4video.cache.loader import CachedLoader
from side4video.cache.size import CacheDialog
from side4video.config.groups import CacheSettings, SideSettings
from side4video.config.paths import locate_data
from side4video.config.schema import RunSettings
from side4video.data.caption_loader import CaptionLoader
from side4video.data.loaders import ClipLoader
from side4video.errors import BackboneError, CheckpointError, ConfigError, InputError
from side4video.hub.download import local_run
from side4video.memory.estimate import StepEstimate, estimate_step
from side4video.side.network import MemoryMode
from side4video.side.spec import Dialect, SideSpec, resolve_taps
from side4video.tasks.base import TrainedModel
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.checkpoint import RunFolder
from side4video.training.fit import fit
from side4video.training.progress import ProgressView
from side4video.training.runtime import Runtime, start
from side4video.training.values import FitResult

__all__ = [
    "build_backbone",
    "build_data",
    "build_loaders",
    "build_manifests",
    "build_model",
    "build_spec",
    "estimate_run",
    "load_classifier",
    "load_run",
    "load_text_model",
    "pixel_format",
    "resolve_settings",
    "train_run",
    "train_transform",
]


logger = logging.getLogger(__name__)


MISSING = "missing.json"
"""In a retrieval run's folder: listed videos that were not there and left out, by split; absent when none was."""


class _Processes(TypedDict):
    rank: int
    world_size: int
    pin_memory: bool


def build_backbone(settings: RunSettings, *, device: torch.device | str | None = None) -> FrozenBackbone:
    """The frozen image model that the settings name. Random weights (`pretrained=False`) come from the run's seed.

    Raises:
        BackboneError: unknown, unreachable, or without patch tokens.
        CheckpointError: a weights file that cannot be read or does not fit.
    """
    wanted = settings.backbone
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.train.seed)
        backbone = create_backbone(
            wanted.name,
            weights=wanted.weights,
            pretrained=wanted.pretrained,
            image_size=wanted.image_size,
            precision=wanted.precision,
            quantise=wanted.quantise,
            stream_weights=streams_weights(settings, settings.memory),
            shard=num_processes() if wanted.shard else 1,
            device=device,
        )
    if wanted.compile:
        backbone.compile_blocks()
    return backbone


def streams_weights(settings: RunSettings, memory: MemoryMode) -> bool:
    """Whether frozen blocks wait in host memory: as set, else in the smallest mode, unless they are spread."""
    wanted = settings.backbone.stream_weights
    return memory == "smallest" and not settings.backbone.shard if wanted is None else wanted


def planned_shards(settings: RunSettings) -> int:
    """Processes that will share the frozen blocks, as far as the settings say."""
    wanted, devices = settings.backbone, settings.train.devices
    return devices if wanted.shard and isinstance(devices, int) else 1


def build_spec(settings: SideSettings, backbone: FrozenBackbone, *, retrieval: bool = False) -> SideSpec:
    """The side network's settings with every unset one filled in from its dialect, for recognition or retrieval.

    Raises:
        ConfigError: a combination that is not allowed.
    """
    spec = SideSpec.for_dialect(_dialect(settings, backbone), retrieval=retrieval)
    chosen = {
        "taps": settings.taps,
        "norm_order": settings.norm_order,
        "projection_norm": settings.projection_norm,
        "final_norm": settings.final_norm,
        "position_on_class": settings.position_on_class,
        "init": "identity" if settings.init == "identity" else None,
    }
    return replace(
        spec,
        width=settings.width,
        num_heads=settings.num_heads,
        temporal=settings.temporal,
        temporal_kernel=settings.temporal_kernel,
        shift=settings.shift,
        representation=settings.representation,
        stem=settings.stem,
        norm=settings.norm,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def build_model(
    settings: RunSettings, class_names: Sequence[str], *, backbone: FrozenBackbone | None = None
) -> VideoClassifier:
    """A classifier of these classes, its weights drawn from the run's seed. Without a backbone it builds one.

    Raises:
        BackboneError, CheckpointError: as `build_backbone`.
        ConfigError: side settings that do not fit the backbone.
    """
    own = build_backbone(settings) if backbone is None else backbone
    return VideoClassifier(
        own,
        len(class_names),
        side=build_spec(settings.side, own),
        class_names=class_names,
        memory=settings.memory,
        frame_slice=settings.backbone.frame_slice,
        generator=torch.Generator().manual_seed(settings.train.seed),
    )


def resolve_settings(settings: RunSettings, backbone: FrozenBackbone) -> RunSettings:
    """What a run stores: the backbone's name instead of `auto`, the dialect's values, full paths."""
    settings = locate_data(settings)
    spec = build_spec(settings.side, backbone, retrieval=settings.task == "retrieval")
    side = {
        "dialect": _dialect(settings.side, backbone),
        "num_heads": spec.heads,
        "taps": list(resolve_taps(spec.taps, backbone.depth)),
        "norm_order": spec.norm_order,
        "projection_norm": spec.projection_norm,
        "final_norm": spec.final_norm,
        "position_on_class": spec.position_on_class,
    }
    weights = settings.backbone.weights
    resolved_backbone = {"name": backbone.name, "weights": None if weights is None else str(Path(weights).resolve())}
    paths = {
        key: str(Path(value).resolve())
        for key in ("train", "val", "root", "classes")
        if (value := getattr(settings.data, key)) is not None
    }
    cache = {} if settings.cache.dir is None else {"dir": str(Path(settings.cache.dir).resolve())}
    return settings.model_copy(
        update={
            "backbone": settings.backbone.model_copy(update=resolved_backbone),
            "side": settings.side.model_copy(update=side),
            "data": settings.data.model_copy(update=paths),
            "cache": settings.cache.model_copy(update=cache),
        }
    )


def train_run(
    settings: RunSettings,
    out: str | Path,
    *,
    resume: bool = False,
    progress: ProgressView | None = None,
    backbone: FrozenBackbone | None = None,
    cache_dialog: CacheDialog | None = None,
) -> FitResult:
    """The whole of a training: data, backbone, model, and the run folder `out`.

    With several devices this command runs in every process; only the result's `is_main` should speak. A `backbone`
    that is already built takes the place of the one in the settings. With `cache.dir`, what is missing of the feature
    cache is made first; `cache_dialog` is asked before and told how it goes.

    Raises:
        InputError: settings, data or backbone that cannot be used; a folder that holds a run, or none to resume.
        TrainingError: the loss is NaN, too many videos are broken, or the disk cannot be written.
        KeyboardInterrupt: on Ctrl-C, after saving; the message says how to go on.
    """
    runtime = start(settings.train)
    loaders: tuple[ClipLoader, ...] | tuple[CaptionLoader, ...] = ()
    missing: dict[str, list[str]] = {}
    processes: _Processes = {
        "rank": runtime.rank,
        "world_size": runtime.world_size,
        "pin_memory": runtime.device.type == "cuda",
    }
    try:
        if settings.task == "retrieval":
            captions = build_caption_sets(settings)
            missing = dict(zip(("train", "val"), (list(part.missing) for part in captions), strict=True))
            own = build_backbone(settings, device=runtime.device) if backbone is None else backbone
            spec = build_spec(settings.side, own, retrieval=True)
            model = build_text_model(settings, own, spec)
            given = (build_tokenizer(settings, own), pixel_format(own.preprocessing))
            loaders = (
                train_captions_loader(settings, captions[0], *given, **processes),
                eval_captions_loader(settings, captions[1], *given, **processes),
            )
            data = build_caption_data(*loaders)
            if runtime.is_main:
                warn_without_effect(settings)
            cached = _cached(settings, model, loaders, runtime, cache_dialog)
        else:
            train, val = build_manifests(settings)
            own = build_backbone(settings, device=runtime.device) if backbone is None else backbone
            loaders = build_loaders(settings, own.preprocessing, train, val, **processes)
            model = build_model(settings, train.class_names, backbone=own)
            if settings.head.init == "text":
                start_head_from_text(settings, model)
            data = build_data(*loaders)
            cached = _cached(settings, model, loaders, runtime, cache_dialog)
        if cached is not None:
            data = replace(data, train_loader=cached[0], val_loader=cached[1], seek=cached[0].seek)
        resolved = resolve_settings(settings, own)
        result = fit(resolved, model, data, out, resume=resume, runtime=runtime, progress=progress)
        if runtime.is_main and any(missing.values()):
            RunFolder(out).save_json(MISSING, missing)
        return result
    except InputError as error:
        if runtime.is_main:
            raise
        raise SystemExit(0) from error  # every process has found the same, and one is enough to say so
    finally:
        for loader in loaders:
            loader.close()
        runtime.close()


def _cached(
    settings: RunSettings,
    model: TrainedModel,
    loaders: tuple[ClipLoader, ClipLoader] | tuple[CaptionLoader, CaptionLoader],
    runtime: Runtime,
    dialog: CacheDialog | None,
) -> tuple[CachedLoader[Any], CachedLoader[Any]] | None:
    if settings.cache.dir is None:
        if settings.cache != CacheSettings():
            logger.warning("cache.views and cache.precision do nothing without cache.dir")
        return None
    return cached_loaders(settings, model, loaders, runtime=runtime, dialog=dialog)


def load_run(
    path: str | Path, *, device: torch.device | str | None = None, backbone: FrozenBackbone | None = None
) -> TrainedModel:
    """The model of a run folder, in eval mode: a `VideoClassifier`, or a `VideoTextModel` of a retrieval run.

    `hf:ORG/NAME` (or `hf:ORG/NAME@REVISION`) is a run on the hub: it is downloaded, and checked as a stranger's.

    Give a `backbone` that is already built to share it among runs, or when the run's own cannot be found by its name
    (a weights file that has moved). It must be the one that the run was trained on.

    Raises:
        CheckpointError: not a run folder, a missing or damaged file, weights that do not fit, or another backbone.
        BackboneError: the run's backbone cannot be had here.
    """
    folder = RunFolder(local_run(path))
    settings = folder.settings()
    names = folder.class_names() if settings.task == "recognition" else []
    weights = folder.weights()
    try:
        own = build_backbone(settings, device=device) if backbone is None else backbone
        folder.check_backbone(own)
        if settings.task == "recognition":
            model = build_model(settings, names, backbone=own)
        else:
            model = build_text_model(settings, own, build_spec(settings.side, own, retrieval=True))
            if not model.train_text:
                folder.check_text(model.text_tower.identity())
        model.load_trainable_state(weights)
    except (ConfigError, CheckpointError, BackboneError) as error:
        # a setting that is allowed alone may not fit the others; the message must say whose it is
        if str(folder.path) in str(error):
            raise
        kind = BackboneError if isinstance(error, BackboneError) else CheckpointError
        raise kind(f"{folder.path}: {error}") from error
    return model.to(own.device if device is None else device).eval()


def load_classifier(
    path: str | Path, *, device: torch.device | str | None = None, backbone: FrozenBackbone | None = None
) -> VideoClassifier:
    """As `load_run`, of a recognition run.

    Raises:
        CheckpointError, BackboneError: as `load_run`; a retrieval run is a CheckpointError too.
    """
    path = local_run(path)
    _check_task(path, "recognition")
    return cast("VideoClassifier", load_run(path, device=device, backbone=backbone))


def load_text_model(
    path: str | Path, *, device: torch.device | str | None = None, backbone: FrozenBackbone | None = None
) -> VideoTextModel:
    """As `load_run`, of a retrieval run.

    Raises:
        CheckpointError, BackboneError: as `load_run`; a recognition run is a CheckpointError too.
    """
    path = local_run(path)
    _check_task(path, "retrieval")
    return cast("VideoTextModel", load_run(path, device=device, backbone=backbone))


def estimate_run(settings: RunSettings, num_classes: int) -> Callable[[MemoryMode, int], StepEstimate]:
    """A function of memory mode and batch size that estimates a training step of these settings; nothing is loaded.

    Raises:
        BackboneError: unknown, or without patch tokens.
        ConfigError: side settings that do not fit the backbone, or another task than recognition.
    """
    if settings.task != "recognition":
        raise ConfigError(f"estimates are for task=recognition only; got task={settings.task}")
    wanted = settings.backbone
    autocast = {"fp32": None, "fp16": torch.float16}.get(settings.train.precision, torch.bfloat16)

    def estimate(memory: MemoryMode, batch_size: int) -> StepEstimate:
        with torch.device("meta"):
            backbone = create_backbone(
                wanted.name,
                image_size=wanted.image_size,
                precision=wanted.precision,
                quantise=wanted.quantise,
                stream_weights=streams_weights(settings, memory),
                shard=planned_shards(settings),
                device="meta",
            )
            spec = build_spec(settings.side, backbone)
            model = VideoClassifier(backbone, num_classes, side=spec, memory=memory, frame_slice=wanted.frame_slice)
        return estimate_step(
            model,
            batch_size=batch_size,
            num_frames=settings.data.num_frames,
            image_size=backbone.preprocessing.image_size,
            autocast=autocast,
        )

    return estimate


def _check_task(path: str | Path, task: str) -> None:
    found = RunFolder(path).settings().task
    if found != task:
        raise CheckpointError(f"{path}: is a {found} run; this needs a {task} run")


def _dialect(settings: SideSettings, backbone: FrozenBackbone) -> Dialect:
    if settings.dialect == "auto":
        return "eva" if backbone.post_norm else "clip"
    return settings.dialect
