"""Fills a cache: every view of every record through the backbone once, shard by shard.

What is there already is not made again. Several processes share the missing shards; each reads its own clips. Shapes as
in `store.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.data import Sampler

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.stored import dequantise, quantise
from side4video.batch import BrokenClip, CaptionedClip, Clip
from side4video.cache.key import CacheKey
from side4video.cache.pixels import has_channels_last, pack_pixels
from side4video.cache.store import BrokenItem, CacheFolder, Item
from side4video.data.caption_dataset import CaptionDataset
from side4video.data.dataset import ClipDataset, EpochIndex
from side4video.data.loaders import ClipLoader
from side4video.data.transforms import PixelFormat
from side4video.errors import ConfigError
from side4video.training.checkpoint import writing

# clips that pass the backbone together
CLIPS_AT_ONCE = 8

Record = list[Clip] | CaptionedClip | BrokenClip


@dataclass(frozen=True)
class Source:
    """Where the clips of a cache come from: item i is record `i % num_records` in view `i // num_records`."""

    dataset: ClipDataset | CaptionDataset
    pixels: PixelFormat
    workers: int | Literal["auto"]


class _ItemOrder(Sampler[list[EpochIndex]]):
    """Items one after the other, a few at a time."""

    def __init__(self, items: Sequence[int], num_records: int, *, batch_size: int, world_size: int) -> None:
        self.items, self.num_records = items, num_records
        self.batch_size, self.world_size = batch_size, world_size

    def __len__(self) -> int:
        return (len(self.items) + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        for start in range(0, len(self.items), self.batch_size):
            yield [divmod(item, self.num_records) for item in self.items[start : start + self.batch_size]]


def fill_cache(
    folder: CacheFolder,
    source: Source,
    backbone: FrozenBackbone,
    *,
    frame_slice: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    on_items: Callable[[int], None] | None = None,
) -> None:
    """Make this process's part of the shards that are missing. `on_items` is told how many items were added.

    Raises:
        TrainingError: the disk is full or cannot be written; whole shards stay, and nothing half-written counts.
    """
    shards = folder.missing_shards()[rank::world_size]
    items = [item for shard in shards for item in folder.items_of(shard)]
    if not items:
        return
    key = folder.key
    order = _ItemOrder(
        items, key.num_records, batch_size=max(1, CLIPS_AT_ONCE // key.clips_per_view), world_size=world_size
    )
    loader = ClipLoader(
        # all that it asks of a data set are items, views and clip_shape; of a sampler, sizes and batches of indices
        cast("Any", source.dataset),
        cast("Any", order),
        workers=source.workers,
        persistent=False,
        collate_fn=list,
    )
    made = _items(loader, folder, source, backbone, frame_slice)
    numbers = iter(items)
    for shard in shards:
        kept: dict[int, Item | BrokenItem] = {}
        squares = torch.zeros(2, dtype=torch.float64)
        for _ in folder.items_of(shard):
            item, error = next(made)
            kept[next(numbers)] = item
            squares += error
        with writing(folder.path):
            folder.write_shard(shard, kept, squares=squares.tolist())
        if on_items is not None:
            on_items(len(kept))


@contextmanager
def filling(path: Path) -> Generator[None]:
    """Hold the cache for oneself while it is filled.

    Raises:
        ConfigError: another process is filling it.
        TrainingError: the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # not on this system: two processes that fill one cache would write the same shards
        yield
        return
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigError(f"cache.dir: another process is filling {path}; wait for it") from None
    try:
        yield
    finally:
        lock.close()


def _items(
    loader: ClipLoader, folder: CacheFolder, source: Source, backbone: FrozenBackbone, frame_slice: int | None
) -> Iterator[tuple[Item | BrokenItem, Tensor]]:
    """Each item with its sums of squared errors and of squared tokens."""
    for batch in loader:
        records = cast("list[Record]", batch)
        clips = [clip for record in records for clip in _clips(record)]
        rows = iter(_tokens(clips, folder.key, backbone, frame_slice))
        for record in records:
            if isinstance(record, BrokenClip):
                yield BrokenItem(record.path, record.reason), torch.zeros(2, dtype=torch.float64)
                continue
            own = _clips(record)
            parts = [next(rows) for _ in own]
            tensors = {name: torch.stack([part[0][name] for part in parts]) for name in parts[0][0]}
            masks = [clip.mask_T for clip in own if isinstance(clip, CaptionedClip)] or [None] * len(own)
            packed = [pack_pixels(clip.frames_TCHW, source.pixels, mask) for clip, mask in zip(own, masks, strict=True)]
            if len({pixels.dtype for pixels in packed}) > 1:
                packed = [clip.frames_TCHW for clip in own]
            tensors["pixels"] = torch.stack(packed).contiguous()
            labels = tuple(clip.label for clip in own if isinstance(clip, Clip))
            shown = tuple(tuple(mask.tolist()) for mask in masks if mask is not None)
            layout = has_channels_last(own[0].frames_TCHW)
            yield Item(tensors, labels, shown, own[0].path, layout), torch.stack([part[1] for part in parts]).sum(0)


def _clips(record: Record) -> list[Clip] | list[CaptionedClip]:
    if isinstance(record, BrokenClip):
        return []
    return [record] if isinstance(record, CaptionedClip) else record


def _tokens(
    clips: Sequence[Clip | CaptionedClip], key: CacheKey, backbone: FrozenBackbone, frame_slice: int | None
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """For each clip its stored tensors (GTAD) and the sums of squares."""
    if not clips:
        return []
    clip_BTCHW = torch.stack([clip.frames_TCHW for clip in clips]).to(backbone.device)
    layers: dict[int, Tensor] = {}
    for layer in backbone.stream(clip_BTCHW, [*key.whole_layers, *key.class_layers], frame_slice=frame_slice):
        if layer.layer in key.whole_layers:
            layers[layer.layer] = layer.tokens_BTAD.cpu()
        if layer.layer in key.class_layers:
            layers[layer.layer] = layer.tokens_BTAD[:, :, :1].cpu()
    found: list[tuple[dict[str, Tensor], Tensor]] = []
    for row in range(len(clips)):
        tensors: dict[str, Tensor] = {}
        sums = torch.zeros(2, dtype=torch.float64)
        for name, wanted in (("tokens", key.whole_layers), ("last", key.class_layers)):
            if not wanted:
                continue
            exact_GTAD = torch.stack([layers[index][row] for index in wanted])
            if key.cache_precision == "int8":
                tensors[name], tensors[f"{name}_scales"] = quantise(exact_GTAD)
                back_GTAD = dequantise(tensors[name], tensors[f"{name}_scales"])
            else:
                tensors[name] = exact_GTAD.to(key.stored_type)
                back_GTAD = tensors[name]
            if not key.is_exact:
                sums[0] += (back_GTAD.float() - exact_GTAD.float()).square().sum(dtype=torch.float64)
                sums[1] += exact_GTAD.float().square().sum(dtype=torch.float64)
        found.append((tensors, sums))
    return found
