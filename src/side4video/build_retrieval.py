"""Settings to the objects of text-video retrieval: model, caption sets, loaders. `build.py` decides when."""

from __future__ import annotations

import hashlib
import logging

import torch

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.caption_tokens import ClipTokenizer, FixedLengthTokenizer
from side4video.backbones.create_text import create_text_tower, create_tokenizer
from side4video.config.describe import known_settings
from side4video.config.paths import locate_data
from side4video.config.schema import RunSettings
from side4video.data.caption_dataset import CaptionDataset
from side4video.data.caption_loader import CaptionLoader
from side4video.data.captions import CaptionSet, read_captions, split_captions
from side4video.data.transforms import PixelFormat
from side4video.errors import ConfigError
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import Interaction, VideoTextModel
from side4video.training.values import TrainingData

TABLES = ("auto", "table", "jsonl")
# settings of recognition that nothing in retrieval reads
WITHOUT_EFFECT = (
    *("data.format", "data.classes", "data.min_frames", "data.sampling", "data.repeated_augmentation", "data.resize"),
    *("data.fraction", "data.shots", "head.init", "head.templates"),
    *("data.crop_area", "data.crop_aspect", "data.flip", "data.flip_pairs", "data.grayscale", "data.rand_augment"),
    *("data.random_erasing", "data.mixup", "data.cutmix", "optim.side_lr_ratio", "optim.decay_norm_and_bias"),
    *("optim.schedule", "optim.warmup_epochs", "optim.milestones", "optim.schedule_every", "optim.label_smoothing"),
)

logger = logging.getLogger(__name__)
Tokenizer = ClipTokenizer | FixedLengthTokenizer


def build_text_model(settings: RunSettings, backbone: FrozenBackbone, spec: SideSpec) -> VideoTextModel:
    """The model beside a backbone, its new weights drawn from the run's seed; the text tower is the backbone's own.

    Raises:
        BackboneError: a backbone without a text tower; the message says what works.
        CheckpointError: a weights file that cannot be read or does not fit.
        ConfigError: side settings that do not fit the backbone.
    """
    wanted, seed = settings.retrieval, settings.train.seed
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        text = create_text_tower(
            backbone.name, weights=settings.backbone.weights, pretrained=settings.backbone.pretrained
        )
    model = VideoTextModel(
        backbone,
        text,
        side=spec,
        interaction=wanted.interaction,
        interaction_width=wanted.interaction_width,
        ignore_video_mask=_ignored_masks(wanted.video_mask, backbone),
        train_text=wanted.train_text,
        memory=settings.memory,
        frame_slice=settings.backbone.frame_slice,
        generator=torch.Generator().manual_seed(seed),
    )
    return model.to(backbone.device)


def _ignored_masks(mask: str, backbone: FrozenBackbone) -> tuple[Interaction, ...]:
    if mask == "used":
        return ()
    return ("mean",) if backbone.post_norm else ("wti", "mean")


def build_tokenizer(settings: RunSettings, backbone: FrozenBackbone) -> Tokenizer:
    """The tokenizer of the backbone's text tower.

    Raises:
        BackboneError: a backbone without one, or one that cannot be downloaded.
        MissingExtraError: one that needs a package that is not installed.
    """
    return create_tokenizer(backbone.name, max_words=settings.retrieval.max_words)


def build_caption_sets(settings: RunSettings) -> tuple[CaptionSet, CaptionSet]:
    """Training and validation videos with captions. Without `data.val`: the validation split of a published data set,
    or a share of the videos of a table.

    Raises:
        ConfigError: no captions are named, or a file is in two places (`locate_data`).
        DataError: captions that are missing or malformed, or videos that are not there.
    """
    data, wanted = locate_data(settings).data, settings.retrieval
    if data.train is None:
        raise ConfigError("data.train is not set: name a CSV or JSONL file with video,caption[,start,end]")
    train = read_caption_set(settings, data.train, split=wanted.train_split)
    if data.val is None and wanted.format in TABLES:
        return split_captions(train, data.val_fraction, settings.train.seed)
    return train, read_caption_set(settings, data.val or data.train, split=wanted.val_split)


def build_caption_split(settings: RunSettings, split: str) -> tuple[CaptionSet, str]:
    """The set of `split` (`train`, else validation), and what to call it. The other one is read only where it must be.

    Raises:
        ConfigError, DataError: as `build_caption_sets`.
    """
    data, wanted = locate_data(settings).data, settings.retrieval
    if data.train is None or (data.val is None and wanted.format in TABLES):
        train, val = build_caption_sets(settings)
        return (train, f"{data.train} (training)") if split == "train" else (val, f"{data.train} (held out)")
    source, part = (data.train, wanted.train_split) if split == "train" else (data.val or data.train, wanted.val_split)
    name = f"{source} (training)" if split == "train" else source
    captions = read_caption_set(settings, source, split=part)
    return captions, name if wanted.format in TABLES else f"{source}, split {part}"


def read_caption_set(settings: RunSettings, source: str, *, split: str) -> CaptionSet:
    """The captions of `source` as the settings say to read them.

    Raises:
        DataError: captions that are missing or malformed, or videos that are not there.
    """
    return read_captions(
        source,
        format=settings.retrieval.format,
        split=split,
        root=settings.data.root,
        missing=settings.retrieval.missing,
        frame_pattern=settings.data.frame_pattern,
    )


def train_captions_loader(
    settings: RunSettings,
    captions: CaptionSet,
    tokenizer: Tokenizer,
    pixels: PixelFormat,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> CaptionLoader:
    """Training batches of one process of `world_size`.

    Raises:
        DataError: fewer captions (or videos, with `retrieval.captions=one`) than one batch in each process.
    """
    dataset = CaptionDataset(
        captions,
        pixels=pixels,
        num_frames=settings.data.num_frames,
        mode="train",
        frames=settings.retrieval.train_frames,
        each=settings.retrieval.captions,
        seed=settings.train.seed,
    )
    return CaptionLoader(
        dataset,
        tokenizer,
        train=True,
        batch_size=settings.data.batch_size,
        seed=settings.train.seed,
        rank=rank,
        world_size=world_size,
        workers=settings.data.workers,
        pin_memory=pin_memory,
        together=settings.retrieval.together,
    )


def eval_captions_loader(
    settings: RunSettings,
    captions: CaptionSet,
    tokenizer: Tokenizer,
    pixels: PixelFormat,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    shuffle_frames: bool = False,
) -> CaptionLoader:
    """Every video of this process's share once, with all of its captions."""
    dataset = CaptionDataset(
        captions,
        pixels=pixels,
        num_frames=settings.data.num_frames,
        mode="test",
        frames=settings.retrieval.test_frames,
        seed=settings.train.seed,
        shuffle_frames=shuffle_frames,
    )
    batch_size = min(settings.data.batch_size, settings.retrieval.chunk_size or settings.data.batch_size)
    return CaptionLoader(
        dataset,
        tokenizer,
        train=False,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        workers=settings.data.workers,
        pin_memory=pin_memory,
    )


def build_caption_data(train: CaptionLoader, val: CaptionLoader) -> TrainingData:
    """The loaders as `fit` takes them."""
    sets = train.dataset.captions, val.dataset.captions
    return TrainingData(
        train_loader=train,
        val_loader=val,
        seek=train.seek,
        batches_per_epoch=train.batches_per_epoch,
        num_train=len(sets[0]),
        fingerprint=hashlib.sha256("".join(captions.fingerprint() for captions in sets).encode()).hexdigest(),
    )


def warn_without_effect(settings: RunSettings) -> None:
    """Name the settings that were changed and that retrieval does not look at."""
    values = settings.model_dump()
    changed: list[str] = []
    for key in WITHOUT_EFFECT:
        group, _, name = key.partition(".")
        if values[group][name] != known_settings()[key].get_default(call_default_factory=True):
            changed.append(key)
    if changed:
        logger.warning("without effect in retrieval: %s", ", ".join(changed))
