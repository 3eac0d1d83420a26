"""Settings to objects: the one place that knows both. Builds backbone, model and data, runs a training, loads a run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from side4video.backbones.base import FrozenBackbone, Preprocessing
from side4video.backbones.create import create_backbone
from side4video.config.paths import locate_data
from side4video.config.schema import DataSettings, RunSettings, SideSettings
from side4video.data.catalog import flip_labels
from side4video.data.class_names import find_mirror_pairs
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import ClipLoader, make_eval_loader, make_train_loader
from side4video.data.manifest import drop_short, read_manifest, split_manifest
from side4video.data.randaugment import RandAugmentPolicy
from side4video.data.records import Manifest
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import PixelFormat, TestTransform, TrainTransform
from side4video.errors import CheckpointError, ConfigError, InputError
from side4video.memory.estimate import StepEstimate, estimate_step
from side4video.side.network import MemoryMode
from side4video.side.spec import Dialect, SideSpec, resolve_taps
from side4video.tasks.recognition import VideoClassifier
from side4video.training.checkpoint import RunFolder
from side4video.training.fit import FitResult, TrainingData, fit
from side4video.training.progress import ProgressView
from side4video.training.runtime import start

logger = logging.getLogger(__name__)


def build_backbone(settings: RunSettings, *, device: torch.device | str | None = None) -> FrozenBackbone:
    """The frozen image model that the settings name. Random weights (`pretrained=False`) come from the run's seed.

    Raises:
        BackboneError: unknown, unreachable, or without patch tokens.
        CheckpointError: a weights file that cannot be read or does not fit.
    """
    wanted = settings.backbone
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.train.seed)
        return create_backbone(
            wanted.name,
            weights=wanted.weights,
            pretrained=wanted.pretrained,
            image_size=wanted.image_size,
            precision=wanted.precision,
            device=device,
        )


def build_spec(settings: SideSettings, backbone: FrozenBackbone) -> SideSpec:
    """The side network's settings with every unset one filled in from its dialect.

    Raises:
        ConfigError: a combination that is not allowed.
    """
    spec = SideSpec.for_dialect(_dialect(settings, backbone))
    chosen = {
        "taps": settings.taps,
        "norm_order": settings.norm_order,
        "projection_norm": settings.projection_norm,
        "final_norm": settings.final_norm,
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
        position_on_class=settings.position_on_class,
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


def build_manifests(settings: RunSettings) -> tuple[Manifest, Manifest]:
    """Training and validation clips; without a validation set, a share of each training class.

    Raises:
        ConfigError: no training set is named, or a list is in two places (`locate_data`).
        DataError: a set is missing, empty, malformed, or has a class that training lacks.
    """
    data = locate_data(settings).data
    if data.train is None:
        raise ConfigError("data.train is not set: name a folder of class folders, or a list file")
    train = read_manifest(
        data.train, format=data.format, root=data.root, frame_pattern=data.frame_pattern, classes=data.classes
    )
    train = drop_short(train, data.min_frames)
    if data.val is None:
        return split_manifest(train, data.val_fraction, settings.train.seed)
    val = read_manifest(
        data.val, format=data.format, root=data.root, frame_pattern=data.frame_pattern, class_names=train.class_names
    )
    return train, drop_short(val, data.min_frames)


def pixel_format(wanted: Preprocessing) -> PixelFormat:
    """The pixels that a backbone wants, as the transforms take them."""
    return PixelFormat(wanted.image_size, wanted.mean, wanted.std, wanted.interpolation)


def train_transform(data: DataSettings, pixels: PixelFormat, class_names: Sequence[str]) -> TrainTransform:
    """The augmentation that the settings describe. Warns when a plain mirror meets classes that it exchanges.

    Raises:
        ConfigError: a RandAugment setting or label pairs that cannot be read.
    """
    if data.flip == "swap" and data.flip_pairs is None:
        raise ConfigError("data.flip=swap needs data.flip_pairs: the label pairs that a mirror exchanges")
    if data.flip == "on":
        pairs = find_mirror_pairs(class_names)
        if pairs:
            first, second = pairs[0]
            logger.warning(
                "data.flip=on mirrors clips, but a mirror turns %r into %r (%d such pairs): use data.flip=swap or off",
                first, second, len(pairs),
            )  # fmt: skip
    swaps = data.flip == "swap" and data.flip_pairs is not None
    return TrainTransform(
        pixels,
        resize=data.resize,
        crop_area=data.crop_area,
        crop_aspect=data.crop_aspect,
        flip=data.flip,
        flip_labels=flip_labels(data.flip_pairs, class_names) if swaps and data.flip_pairs is not None else {},
        grayscale=data.grayscale,
        augment=None if data.rand_augment is None else RandAugmentPolicy.parse(data.rand_augment),
        erasing=data.random_erasing,
    )


def build_loaders(
    settings: RunSettings,
    preprocessing: Preprocessing,
    train: Manifest,
    val: Manifest,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> tuple[ClipLoader, ClipLoader]:
    """Training and validation batches of one process of `world_size`.

    Raises:
        ConfigError: augmentation that cannot be had.
        DataError: fewer training clips than one batch in each process.
    """
    data, pixels = settings.data, pixel_format(preprocessing)
    sampler = FrameSampler(data.sampling, data.num_frames)
    train_set = ClipDataset(
        train,
        sampler=sampler,
        transform=train_transform(data, pixels, train.class_names),
        mode="train",
        seed=settings.train.seed,
        repeats=data.repeated_augmentation,
    )
    val_set = ClipDataset(
        val, sampler=sampler, transform=TestTransform(pixels, data.resize), mode="val", seed=settings.train.seed
    )
    train_loader = make_train_loader(
        train_set,
        batch_size=data.batch_size,
        seed=settings.train.seed,
        rank=rank,
        world_size=world_size,
        workers=data.workers,
        pin_memory=pin_memory,
    )
    val_loader = make_eval_loader(
        val_set,
        batch_size=data.batch_size * data.repeated_augmentation,
        rank=rank,
        world_size=world_size,
        workers=data.workers,
        pin_memory=pin_memory,
    )
    return train_loader, val_loader


def build_data(train_loader: ClipLoader, val_loader: ClipLoader) -> TrainingData:
    """The loaders as `fit` takes them."""
    train, val = train_loader.dataset.manifest, val_loader.dataset.manifest
    prints = hashlib.sha256((train.fingerprint() + val.fingerprint()).encode()).hexdigest()
    return TrainingData(
        train_loader=train_loader,
        val_loader=val_loader,
        seek=train_loader.seek,
        batches_per_epoch=train_loader.batches_per_epoch,
        num_train=len(train),
        fingerprint=prints,
    )


def resolve_settings(settings: RunSettings, backbone: FrozenBackbone) -> RunSettings:
    """What a run stores: the backbone's name instead of `auto`, the dialect's values, full paths."""
    settings = locate_data(settings)
    spec = build_spec(settings.side, backbone)
    side = {
        "dialect": _dialect(settings.side, backbone),
        "num_heads": spec.heads,
        "taps": list(resolve_taps(spec.taps, backbone.depth)),
        "norm_order": spec.norm_order,
        "projection_norm": spec.projection_norm,
        "final_norm": spec.final_norm,
    }
    weights = settings.backbone.weights
    resolved_backbone = {"name": backbone.name, "weights": None if weights is None else str(Path(weights).resolve())}
    paths = {
        key: str(Path(value).resolve())
        for key in ("train", "val", "root", "classes")
        if (value := getattr(settings.data, key)) is not None
    }
    return settings.model_copy(
        update={
            "backbone": settings.backbone.model_copy(update=resolved_backbone),
            "side": settings.side.model_copy(update=side),
            "data": settings.data.model_copy(update=paths),
        }
    )


def train_run(
    settings: RunSettings,
    out: str | Path,
    *,
    resume: bool = False,
    progress: ProgressView | None = None,
    backbone: FrozenBackbone | None = None,
) -> FitResult:
    """The whole of a training: data, backbone, model, and the run folder `out`.

    With several devices this command runs in every process; only the result's `is_main` should speak. A `backbone`
    that is already built takes the place of the one in the settings.

    Raises:
        InputError: settings, data or backbone that cannot be used; a folder that holds a run, or none to resume.
        TrainingError: the loss is NaN, too many videos are broken, or the disk cannot be written.
        KeyboardInterrupt: on Ctrl-C, after saving; the message says how to go on.
    """
    runtime = start(settings.train)
    loaders: tuple[ClipLoader, ...] = ()
    try:
        train, val = build_manifests(settings)
        own = build_backbone(settings, device=runtime.device) if backbone is None else backbone
        loaders = train_loader, val_loader = build_loaders(
            settings,
            own.preprocessing,
            train,
            val,
            rank=runtime.rank,
            world_size=runtime.world_size,
            pin_memory=runtime.device.type == "cuda",
        )
        model = build_model(settings, train.class_names, backbone=own)
        data = build_data(train_loader, val_loader)
        resolved = resolve_settings(settings, own)
        return fit(resolved, model, data, out, resume=resume, runtime=runtime, progress=progress)
    except InputError as error:
        if runtime.is_main:
            raise
        raise SystemExit(0) from error  # every process has found the same, and one is enough to say so
    finally:
        for loader in loaders:
            loader.close()
        runtime.close()


def load_run(
    path: str | Path, *, device: torch.device | str | None = None, backbone: FrozenBackbone | None = None
) -> VideoClassifier:
    """The classifier of a run folder, in eval mode.

    Give a `backbone` that is already built to share it among runs, or when the run's own cannot be found by its name
    (a weights file that has moved). It must be the one that the run was trained on.

    Raises:
        CheckpointError: not a run folder, a missing or damaged file, weights that do not fit, or another backbone.
        BackboneError: the run's backbone cannot be had here.
    """
    folder = RunFolder(path)
    settings = folder.settings()
    names = folder.class_names()
    weights = folder.weights()
    own = build_backbone(settings, device=device) if backbone is None else backbone
    folder.check_backbone(own)
    model = build_model(settings, names, backbone=own)
    try:
        model.load_trainable_state(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.path}: {error}") from error
    return model.to(own.device if device is None else device).eval()


def estimate_run(settings: RunSettings, num_classes: int) -> Callable[[MemoryMode, int], StepEstimate]:
    """A function of memory mode and batch size that estimates a training step of these settings; nothing is loaded.

    Raises:
        BackboneError: unknown, or without patch tokens.
        ConfigError: side settings that do not fit the backbone.
    """
    wanted = settings.backbone
    autocast = {"fp32": None, "fp16": torch.float16}.get(settings.train.precision, torch.bfloat16)

    def estimate(memory: MemoryMode, batch_size: int) -> StepEstimate:
        with torch.device("meta"):
            backbone = create_backbone(
                wanted.name, image_size=wanted.image_size, precision=wanted.precision, device="meta"
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


def _dialect(settings: SideSettings, backbone: FrozenBackbone) -> Dialect:
    if settings.dialect == "auto":
        return "eva" if backbone.post_norm else "clip"
    return settings.dialect
