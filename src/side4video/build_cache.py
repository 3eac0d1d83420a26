"""Settings to a feature cache: what it must have been made for, filling it, and loaders that read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from side4video.backbones.frame_head import ClassTokenHead
from side4video.build_recognition import pixel_format
from side4video.cache.fill import Source, fill_cache, filling
from side4video.cache.key import CacheKey, LastBlock, clip_bytes
from side4video.cache.loader import CachedLoader, CaptionBatches, ClipBatches, TokenLayout
from side4video.cache.size import CacheDialog, CacheSize, NoDialog, free_bytes
from side4video.cache.store import CacheFolder, CacheReader
from side4video.config.schema import RunSettings
from side4video.data.caption_dataset import CaptionCollate, CaptionDataset
from side4video.data.caption_loader import CaptionLoader
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import ClipLoader
from side4video.data.transforms import TestTransform
from side4video.errors import ConfigError, InputError, Side4VideoError, TrainingError
from side4video.tasks.base import TrainedModel
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.runtime import Runtime


def cached_loaders(
    settings: RunSettings,
    model: TrainedModel,
    loaders: tuple[ClipLoader, ClipLoader] | tuple[CaptionLoader, CaptionLoader],
    *,
    runtime: Runtime,
    dialog: CacheDialog | None = None,
    taps: Sequence[int] | None = None,
) -> tuple[CachedLoader[Any], CachedLoader[Any]]:
    """Loaders that give what `loaders` would, with stored tokens; what is missing of the cache is made first.

    `taps` are of all models that will read from them; by default those of `model`.

    Raises:
        ConfigError: a cache that was made for something else, is being filled by another process, or is not agreed to.
        CheckpointError: a damaged cache.
        TrainingError: too little room, or a disk that cannot be written.
    """
    assert settings.cache.dir is not None
    path, dialog = Path(settings.cache.dir), dialog or NoDialog()
    taps = model.side.taps if taps is None else taps
    sets = [cached_set(settings, loaders[0].dataset), loaders[1].dataset]
    keys = [
        cache_key(settings, model, dataset, train=train, taps=taps)
        for dataset, train in zip(sets, (True, False), strict=True)
    ]
    size = cache_size(settings, model, keys, path)
    folders = [
        CacheFolder(path / name, key, bytes_per_clip=size.clip.together)
        for name, key in zip(("train", "val"), keys, strict=True)
    ]
    _agree(runtime, lambda: _prepare(folders, size, dialog) if runtime.is_main else None)
    missing = [folder.missing_shards() for folder in folders]
    if any(missing):
        with ExitStack() as stack:
            if runtime.is_main:
                _agree(runtime, lambda: stack.enter_context(filling(path)))
            else:
                _agree(runtime, lambda: None)
            for folder, dataset in zip(folders, sets, strict=True):
                _agree(runtime, lambda: _fill(folder, dataset, settings, model, runtime, dialog))  # noqa: B023
    if runtime.is_main:
        error = None if all(folder.key.is_exact for folder in folders) else folders[0].relative_error()
        dialog.done(sum(folder.stored_bytes() for folder in folders), error)
    return _loader(model, folders[0], loaders[0], runtime, taps), _loader(model, folders[1], loaders[1], runtime, taps)


def cached_set(settings: RunSettings, train: ClipDataset | CaptionDataset) -> ClipDataset | CaptionDataset:
    """The training data as the cache sees it: the fixed view, or view k drawn as epoch k would draw it."""
    fixed = settings.cache.views == "fixed"
    if isinstance(train, CaptionDataset):
        return CaptionDataset(
            train.captions,
            pixels=train.transform.pixels,
            num_frames=train.num_frames,
            mode="test" if fixed else "train",
            frames=settings.retrieval.test_frames if fixed else settings.retrieval.train_frames,
            # a video is stored once a view, however many captions it has
            each="one",
            seed=train.seed,
        )
    if not fixed:
        return train
    if settings.data.repeated_augmentation > 1:
        raise ConfigError(
            f"data.repeated_augmentation={settings.data.repeated_augmentation} does not go with cache.views=fixed, "
            "which knows one view of a clip; set cache.views to a number"
        )
    transform = TestTransform(train.transform.pixels, settings.data.resize)
    return ClipDataset(train.manifest, sampler=train.sampler, transform=transform, mode="val", seed=train.seed)


def cache_key(
    settings: RunSettings,
    model: TrainedModel,
    dataset: ClipDataset | CaptionDataset,
    *,
    train: bool,
    taps: Sequence[int],
) -> CacheKey:
    """What a split's cache must have been made for."""
    backbone = model.backbone
    wanted = backbone.preprocessing
    views = settings.cache.views if train and settings.cache.views != "fixed" else 0
    if isinstance(dataset, CaptionDataset):
        data, records, sampling = dataset.captions.fingerprint(), len(dataset.captions), dataset.frames
        num_frames = dataset.num_frames
    else:
        data, records, sampling = dataset.manifest.fingerprint(), len(dataset.manifest), dataset.sampler.kind
        num_frames = dataset.sampler.num_frames
    return CacheKey(
        backbone_hash=backbone.content_hash(),
        tokens_precision=str(backbone.precision).removeprefix("torch."),
        quantise=getattr(backbone, "quantise", "none"),
        cache_precision=settings.cache.precision,
        image_size=wanted.image_size,
        mean=wanted.mean,
        std=wanted.std,
        interpolation=wanted.interpolation,
        taps=tuple(taps),
        last=_last_block(model),
        depth=backbone.depth,
        data=data,
        num_records=records,
        num_frames=num_frames,
        sampling=f"{sampling}, {dataset.mode}",
        transform=repr(dataset.transform),
        views=int(views),
        clips_per_view=dataset.views,
        seed=dataset.seed if views else None,
    )


def cache_size(settings: RunSettings, model: TrainedModel, keys: list[CacheKey], path: Path) -> CacheSize:
    """Clips and bytes; what is there already counts as missing until the folders are looked at."""
    backbone, key = model.backbone, keys[0]
    rows, columns = backbone.grid(key.image_size)
    clips = sum(key.num_items * key.clips_per_view for key in keys)
    return CacheSize(
        path=path,
        clips=clips,
        missing_clips=clips,
        clip=clip_bytes(
            len(key.whole_layers) * (backbone.num_prefix + rows * columns) + len(key.class_layers),
            width=backbone.width,
            stored_type=key.stored_type,
            num_frames=key.num_frames,
            image_size=key.image_size,
            whole_pixels=key.views > 0 and settings.task == "recognition" and settings.data.random_erasing > 0,
        ),
        free_bytes=free_bytes(path),
        views=key.views,
        precision=key.tokens_precision if key.cache_precision == "own" else key.cache_precision,
        is_exact=key.is_exact,
    )


def _prepare(folders: list[CacheFolder], size: CacheSize, dialog: CacheDialog) -> None:
    """Look again at what an interrupted run left, ask, and make the folders."""
    for folder in folders:
        missing = set(folder.missing_shards())
        if missing and not folder.is_new:
            for shard in sorted(set(range(folder.num_shards)) - missing):
                if not folder.verify(shard):
                    folder.remove_shard(shard)
    clips = sum(
        len(folder.items_of(shard)) * folder.key.clips_per_view
        for folder in folders
        for shard in folder.missing_shards()
    )
    if not clips:
        return
    size = replace(size, missing_clips=clips)
    size.check_room()
    dialog.confirm(size)
    with filling(size.path):
        for folder in folders:
            folder.begin()


def _fill(
    folder: CacheFolder,
    dataset: ClipDataset | CaptionDataset,
    settings: RunSettings,
    model: TrainedModel,
    runtime: Runtime,
    dialog: CacheDialog,
) -> None:
    missing = folder.missing_shards()[runtime.rank :: runtime.world_size]
    if runtime.is_main and missing:
        dialog.begin(folder.path.name, sum(len(folder.items_of(shard)) for shard in missing))
    # the model goes to its device when training begins; filling comes before
    backbone = model.backbone.to(runtime.device)
    fill_cache(
        folder,
        Source(dataset, pixel_format(backbone.preprocessing), settings.data.workers),
        backbone,
        frame_slice=model.video.frame_slice,
        rank=runtime.rank,
        world_size=runtime.world_size,
        on_items=dialog.advance if runtime.is_main else None,
    )


def _loader(
    model: TrainedModel,
    folder: CacheFolder,
    plain: ClipLoader | CaptionLoader,
    runtime: Runtime,
    taps: Sequence[int],
) -> CachedLoader[Any]:
    backbone, dataset = model.backbone, plain.dataset
    last = () if _last_block(model) == "none" else (backbone.depth - 1,)
    layout = TokenLayout(
        folder.key,
        wanted=(*taps, *last),
        num_prefix=backbone.num_prefix,
        has_class_token=backbone.has_class_token,
        grid_YX=backbone.grid(backbone.preprocessing.image_size),
    )
    reader = CacheReader(folder)
    if isinstance(dataset, CaptionDataset):
        assert isinstance(plain, CaptionLoader)
        collate = CaptionCollate(plain.tokenizer, dataset.clip_shape)
        captions = CaptionBatches(reader, layout, dataset, collate)
        return CachedLoader(plain.sampler, captions, pin_memory=runtime.device.type == "cuda")
    clips = ClipBatches(reader, layout, dataset.transform.pixels)
    return CachedLoader(plain.sampler, clips, pin_memory=runtime.device.type == "cuda")


def _last_block(model: TrainedModel) -> LastBlock:
    if not isinstance(model, VideoTextModel):
        return "none"
    takes_class_token = isinstance(model.frame_head, ClassTokenHead) and model.backbone.has_class_token
    return "class" if takes_class_token else "all"


def _agree(runtime: Runtime, action: Callable[[], object]) -> None:
    """Do it in every process; when it fails in one, all stop, and the first process says why."""
    failure: Side4VideoError | None = None
    try:
        action()
    except (InputError, TrainingError) as error:
        failure = error
    (failed,) = runtime.sum([failure is not None])
    if failed:
        if not runtime.is_main:
            raise SystemExit(0)
        raise failure or TrainingError("cache.dir: another process could not make its part of the cache")
