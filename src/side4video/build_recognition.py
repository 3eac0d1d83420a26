"""Settings to the data of recognition: manifests, augmentation, loaders. `build.py` decides when."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from side4video.backbones.trunk import Preprocessing
from side4video.config.groups import DataSettings
from side4video.config.paths import locate_data
from side4video.config.schema import RunSettings
from side4video.data.catalog import flip_labels
from side4video.data.class_names import find_mirror_pairs
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import ClipLoader, make_eval_loader, make_train_loader
from side4video.data.manifest import drop_short, read_manifest, split_manifest
from side4video.data.randaugment import RandAugmentPolicy
from side4video.data.records import Manifest
from side4video.data.sampling import FrameSampler
from side4video.data.subset import take_subset
from side4video.data.transforms import PixelFormat, TestTransform, TrainTransform
from side4video.errors import ConfigError
from side4video.training.values import TrainingData

logger = logging.getLogger(__name__)


def build_manifests(settings: RunSettings) -> tuple[Manifest, Manifest]:
    """Training and validation clips; without a validation set, a share of each training class.

    `data.fraction` and `data.shots` choose from the training clips that are left; what is held out stays whole.

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
        train, val = split_manifest(train, data.val_fraction, settings.train.seed)
        return _subset(settings, train), val
    val = read_manifest(
        data.val, format=data.format, root=data.root, frame_pattern=data.frame_pattern, class_names=train.class_names
    )
    return _subset(settings, train), drop_short(val, data.min_frames)


def _subset(settings: RunSettings, train: Manifest) -> Manifest:
    data = settings.data
    kept = take_subset(train, fraction=data.fraction, shots=data.shots, seed=settings.train.seed)
    if len(kept) < len(train) or data.shots is not None:
        wanted = f"data.fraction={data.fraction:g}" if data.shots is None else f"data.shots={data.shots}"
        counts = [count for count in kept.class_counts() if count]
        each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        logger.info(
            "training clips: %d of %d (%s), %s of each of %d classes",
            len(kept), len(train), wanted, each, len(counts),
        )  # fmt: skip
    return kept


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
