"""Batches from a cache, in the order that the run would have without it: pixels for the stem, and stored tokens.

Epoch e sees view `e % views` of each record. One thread reads a batch ahead while the last one is trained on; nothing
is decoded and there are no worker processes. Shapes as in `store.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

from side4video.batch import BrokenClip, CaptionBatch, CaptionedClip, StoredTokens, VideoBatch
from side4video.cache.key import CacheKey
from side4video.cache.pixels import unpack_pixels
from side4video.cache.store import BrokenItem, CacheReader, Item
from side4video.data.caption_dataset import CaptionCollate, CaptionDataset
from side4video.data.dataset import EpochIndex
from side4video.data.loaders import ResumableSampler
from side4video.data.transforms import PixelFormat

Batch = TypeVar("Batch", VideoBatch, CaptionBatch)


class CachedLoader(Generic[Batch]):
    """Iterable of batches. `seek` sets where the next pass begins; `make_batch` makes one of (epoch, index) pairs."""

    def __init__(
        self,
        sampler: ResumableSampler,
        make_batch: Callable[[Sequence[EpochIndex]], Batch],
        *,
        pin_memory: bool = False,
    ) -> None:
        self.sampler = sampler
        self._make_batch = make_batch
        self._pin_memory = pin_memory

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole pass, whatever the position."""
        return len(self.sampler)

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Let the next pass begin at this batch of this epoch.

        Raises:
            InputError: for a position that does not exist.
        """
        self.sampler.set_position(epoch, batch)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, thread_name_prefix="cache") as reader:
            ahead = None
            for chosen in self.sampler:
                coming = reader.submit(self._read, chosen)
                if ahead is not None:
                    yield ahead.result()
                ahead = coming
            if ahead is not None:
                yield ahead.result()

    def close(self) -> None:
        """Nothing: no process is kept."""

    def _read(self, chosen: Sequence[EpochIndex]) -> Batch:
        batch = self._make_batch(chosen)
        return batch.pin_memory() if self._pin_memory else batch


class ClipBatches:
    """Makes recognition's batches."""

    def __init__(self, reader: CacheReader, layout: TokenLayout, pixels: PixelFormat) -> None:
        self.reader, self.layout, self.pixels = reader, layout, pixels
        self.key = reader.folder.key

    def __call__(self, chosen: Sequence[EpochIndex]) -> VideoBatch:
        """One batch of the records that are asked for."""
        numbers = [index for _, index in chosen]
        items = [self.reader.read(item_number(self.key, epoch, index)) for epoch, index in chosen]
        good = [(number, item) for number, item in zip(numbers, items, strict=True) if isinstance(item, Item)]
        clips = self.key.clips_per_view
        return VideoBatch(
            clip_BTCHW=_pixels([item for _, item in good], self.key, self.pixels),
            labels_B=torch.tensor([label for _, item in good for label in item.labels], dtype=torch.int64),
            indices_B=torch.tensor([number for number, _ in good for _ in range(clips)], dtype=torch.int64),
            views_B=torch.tensor([view for _ in good for view in range(clips)], dtype=torch.int64),
            broken=_broken(numbers, items),
            stored=self.layout.stored([item for _, item in good]),
        )


class CaptionBatches:
    """Makes retrieval's batches: the cache has each video once, a batch may have it with several captions."""

    def __init__(
        self, reader: CacheReader, layout: TokenLayout, dataset: CaptionDataset, collate: CaptionCollate
    ) -> None:
        self.reader, self.layout, self.dataset, self.collate = reader, layout, dataset, collate
        self.key = reader.folder.key

    def __call__(self, chosen: Sequence[EpochIndex]) -> CaptionBatch:
        """One batch of the items that are asked for."""
        pixels = self.dataset.transform.pixels
        clips: list[CaptionedClip | BrokenClip] = []
        good: list[Item] = []
        for epoch, index in chosen:
            record, texts = self.dataset.texts(epoch, index)
            item = self.reader.read(item_number(self.key, epoch, record))
            if isinstance(item, BrokenItem):
                clips.append(BrokenClip(record, item.path, item.reason))
                continue
            mask_T = torch.tensor(item.masks[0])
            frames_TCHW = unpack_pixels(item.tensors["pixels"][0], pixels, mask_T, channels_last=item.channels_last)
            clips.append(CaptionedClip(frames_TCHW, mask_T, texts, record, item.path))
            good.append(item)
        batch = self.collate(clips)
        return CaptionBatch(
            batch.clip_BTCHW, batch.mask_BT, batch.ids_MQ, batch.mask_MQ, batch.rows_M, batch.indices_B, batch.broken,
            self.layout.stored(good),
        )  # fmt: skip


class TokenLayout:
    """How a backbone's tokens stand, to put stored ones back together."""

    def __init__(
        self, key: CacheKey, *, wanted: Sequence[int], num_prefix: int, has_class_token: bool, grid_YX: tuple[int, int]
    ) -> None:
        self.key = key
        # what the cache holds beside that is not read
        self.places = [(place, layer) for place, layer in enumerate(key.whole_layers) if layer in wanted]
        self.class_layers = tuple(layer for layer in key.class_layers if layer in wanted)
        self.num_prefix, self.has_class_token, self.grid_YX = num_prefix, has_class_token, grid_YX

    def stored(self, items: Sequence[Item]) -> StoredTokens | None:
        """The tokens of these items' clips, one tensor a layer; `None` without clips."""
        if not items:
            return None
        tokens: list[Tensor] = []
        scales: list[Tensor] = []
        for into, name in ((tokens, "tokens"), (scales, "tokens_scales")):
            if name in items[0].tensors:
                into += [torch.cat([item.tensors[name][:, place] for item in items]) for place, _ in self.places]
        for into, name in ((tokens, "last"), (scales, "last_scales")):
            if self.class_layers and name in items[0].tensors:
                into.append(torch.cat([item.tensors[name][:, 0] for item in items]))
        return StoredTokens(
            layers=(*(layer for _, layer in self.places), *self.class_layers),
            tokens=tuple(tokens),
            scales=tuple(scales),
            precision=getattr(torch, self.key.tokens_precision),
            num_prefix=self.num_prefix,
            has_class_token=self.has_class_token,
            grid_YX=self.grid_YX,
        )


def item_number(key: CacheKey, epoch: int, record: int) -> int:
    """The item that an epoch sees of a record."""
    return epoch % max(1, key.views) * key.num_records + record


def _pixels(items: Sequence[Item], key: CacheKey, pixels: PixelFormat) -> Tensor:
    if not items:
        return torch.empty(0, key.num_frames, 3, *key.image_size)
    return torch.stack(
        [
            unpack_pixels(packed_TCHW, pixels, channels_last=item.channels_last)
            for item in items
            for packed_TCHW in item.tensors["pixels"]
        ]
    )


def _broken(numbers: Sequence[int], items: Sequence[Item | BrokenItem]) -> tuple[BrokenClip, ...]:
    pairs = zip(numbers, items, strict=True)
    return tuple(BrokenClip(number, item.path, item.reason) for number, item in pairs if isinstance(item, BrokenItem))
