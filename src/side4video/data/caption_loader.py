"""Batches of captioned clips: `ClipLoader`'s order, workers and shared memory, with captions tokenised beside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch

from side4video.batch import CaptionBatch
from side4video.data.caption_dataset import CaptionCollate, CaptionDataset, Tokenizer
from side4video.data.loaders import ClipLoader, ResumableSampler
from side4video.errors import InputError


class NeighbourSampler(ResumableSampler):
    """A `ResumableSampler` that shuffles runs of `together` neighbours and leaves each run as it is."""

    def __init__(self, num_records: int, *, together: int = 1, **options: Any) -> None:
        super().__init__(num_records, **options)
        self.together = together

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle or self.together == 1:
            return super()._order(epoch)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        runs = torch.randperm(self.num_records // self.together, generator=generator).tolist()
        order = [run * self.together + place for run in runs for place in range(self.together)]
        # a run that is too short would move the others out of their batches
        return order + list(range(len(order), self.num_records))


class CaptionLoader:
    """Iterable of batches. `train`: full shuffled ones, `seek` sets where the next pass begins. Else: every video of
    this process's share once, in order, the last batch as short as it is.

    `together` neighbours of the data set always come in one training batch: hard negatives, where they are alike.

    Raises: DataError when training data does not fill one batch in each process, InputError for a `together` that does
    not divide the batch.
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
        together: int = 1,
    ) -> None:
        if together < 1 or (train and batch_size % together):
            raise InputError(
                f"data.batch_size must be a multiple of retrieval.together, which is at least 1; got {batch_size} and "
                f"{together}"
            )
        self.dataset = dataset
        self.tokenizer = tokenizer
        sampler = self.sampler = NeighbourSampler(
            len(dataset),
            together=together,
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
