"""Batches of captioned clips: `ClipLoader`'s order, workers and shared memory, with captions tokenised beside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

from side4video.batch import CaptionBatch
from side4video.data.caption_dataset import CaptionCollate, CaptionDataset, Tokenizer
from side4video.data.loaders import ClipLoader, ResumableSampler


class CaptionLoader:
    """Iterable of batches. `train`: full shuffled ones, `seek` sets where the next pass begins. Else: every video of
    this process's share once, in order, the last batch as short as it is.

    Raises: DataError when training data does not fill one batch in each process.
    """

    def __init__(
        self,
        dataset: CaptionDataset,
        tokenizer: Tokenizer,
        *,
        train: bool,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int | Literal["auto"] = "auto",
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self.tokenizer = tokenizer
        sampler = self.sampler = ResumableSampler(
            len(dataset),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle=train,
            drop_last=train,
        )
        self._batches = ClipLoader(
            # all that it asks of a data set are its items, views and clip_shape
            cast("Any", dataset),
            sampler,
            workers=workers,
            pin_memory=pin_memory,
            persistent=train,
            collate_fn=CaptionCollate(tokenizer, dataset.clip_shape),
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole pass, whatever the position."""
        return self._batches.batches_per_epoch

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Let the next pass begin at this batch of this epoch.

        Raises: InputError for a position that does not exist.
        """
        self._batches.seek(epoch, batch)

    def __iter__(self) -> Iterator[CaptionBatch]:
        return cast("Iterator[CaptionBatch]", iter(self._batches))

    def close(self) -> None:
        """End the workers; a later pass starts new ones."""
        self._batches.close()
