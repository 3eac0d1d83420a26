"""Batches of clips: in an order that can be taken up anywhere, from worker processes that end when they should.

The order of a run depends on its seed and on the epoch; a position in it is (epoch, batch). Evaluation deals the
records out to the processes without padding: nothing is counted twice.

Workers: each decodes with one thread, ignores Ctrl-C (the main process handles it and ends them), and learns the epoch
from the index that it is given. Batches travel as one tensor through shared memory; where that is too small (containers
often give 64 MB) we load in the main process and say so.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Sampler

from side4video.batch import BrokenClip, Clip, VideoBatch
from side4video.data.dataset import ClipDataset, EpochIndex
from side4video.errors import DataError, InputError

MAX_AUTO_WORKERS = 8
PREFETCH = 2
"""Batches that each worker prepares ahead."""
_SHARED_MEMORY = Path("/dev/shm")
_BYTES_PER_VALUE = 4
_SECONDS_AFTER_SIGTERM = 2
_logger = logging.getLogger(__name__)

StartMethod = Literal["fork", "spawn", "forkserver"]


class ResumableSampler(Sampler[list[EpochIndex]]):
    """Batches of (epoch, index) for one of `world_size` processes, from any position on.

    With `drop_last` every process gets the same number of full batches, and what is left over differs from epoch to
    epoch. Without it the records are dealt out in turn, and the last batch may be short or, with fewer records than
    processes, missing. Iterating gives the batches from the position on and moves nothing: set the position of the next
    epoch with `set_position(epoch + 1)`.

    Raises: InputError for sizes below 1 or a rank that does not exist; DataError when `drop_last` leaves no batch.
    """

    def __init__(
        self,
        num_records: int,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        if min(num_records, batch_size, world_size) < 1 or not 0 <= rank < world_size:
            raise InputError(
                "sizes must be at least 1 and rank below world_size; "
                f"got {num_records=}, {batch_size=}, {rank=}, {world_size=}"
            )
        if drop_last and num_records < batch_size * world_size:
            raise DataError(
                f"{num_records} training clips do not fill one batch of {batch_size} in each of {world_size} "
                f"processes: set data.batch_size to at most {num_records // world_size}"
            )
        self.num_records = num_records
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch for this process, whatever the position."""
        if self.drop_last:
            return self.num_records // (self.batch_size * self.world_size)
        own = len(range(self.rank, self.num_records, self.world_size))
        return (own + self.batch_size - 1) // self.batch_size

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Go on with this batch of this epoch; takes effect when the loader is next iterated.

        Raises: InputError for an epoch below 0 or a batch that is not in 0..len(self).
        """
        if epoch < 0 or not 0 <= batch <= len(self):
            raise InputError(f"no position epoch={epoch}, batch={batch}: an epoch has {len(self)} batches")
        self.epoch, self.batch = epoch, batch

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        epoch, first = self.epoch, self.batch
        order = self._order(epoch)
        step = self.batch_size * self.world_size
        for batch in range(first, len(self)):
            if self.drop_last:
                start = batch * step + self.rank * self.batch_size
                chosen = order[start : start + self.batch_size]
            else:
                chosen = order[self.rank :: self.world_size][batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in chosen]

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.num_records))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.num_records, generator=generator).tolist()


class ClipLoader:
    """Iterable of batches, made by worker processes that start with the first pass.

    `seek` sets where the next pass begins. With `persistent` the workers wait for the next pass, and end with `close`
    or with the loader; else they end with each pass, also one that is left early. Passes do not nest. `collate_fn`
    makes a batch of items where these are no clips with labels (see `CaptionLoader`).
    """

    def __init__(
        self,
        dataset: ClipDataset,
        sampler: ResumableSampler,
        *,
        workers: int | Literal["auto"] = "auto",
        start_method: StartMethod | None = None,
        pin_memory: bool = False,
        persistent: bool = True,
        collate_fn: Callable[[Any], Any] | None = None,
    ) -> None:
        if workers != "auto" and workers < 0:
            raise InputError(f"workers must be 'auto' or at least 0; got {workers}")
        self.dataset = dataset
        self.sampler = sampler
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", sampler.world_size))
        wanted = auto_workers(local_processes) if workers == "auto" else workers
        batch_bytes = sampler.batch_size * dataset.views * math.prod(dataset.clip_shape) * _BYTES_PER_VALUE
        self.num_workers, self._prefetch = _fit_shared_memory(min(wanted, max(1, len(sampler))), batch_bytes)
        self._start_method = start_method
        self._pin_memory = pin_memory
        self._persistent = persistent
        self._collate = collate_fn or partial(collate, clip_shape=dataset.clip_shape)
        self._loader: DataLoader[Any] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole pass, whatever the position."""
        return len(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Let the next pass begin at this batch of this epoch.

        Raises: InputError for a position that does not exist.
        """
        self.sampler.set_position(epoch, batch)

    def __iter__(self) -> Iterator[VideoBatch]:
        if self._loader is None:
            self._loader = self._make_loader()
        batches = iter(self._loader)
        try:
            yield from batches
        finally:
            del batches  # ends the workers of a pass that was left early

    def close(self) -> None:
        """End the workers; a later pass starts new ones."""
        self._loader = None

    def _make_loader(self) -> DataLoader[Any]:
        many = self.num_workers > 0
        return DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            num_workers=self.num_workers,
            collate_fn=self._collate,
            pin_memory=self._pin_memory,
            worker_init_fn=_start_worker if many else None,
            multiprocessing_context=self._start_method if many else None,
            # a generator of its own: the loader must not draw from the global one, or a resumed run would differ
            generator=torch.Generator().manual_seed(0),
            prefetch_factor=self._prefetch if many else None,
            persistent_workers=self._persistent and many,
        )


def make_train_loader(
    dataset: ClipDataset,
    *,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int | Literal["auto"] = "auto",
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
) -> ClipLoader:
    """Full, shuffled batches; the workers live from epoch to epoch.

    `batch_size` counts records; each gives `dataset.views` clips.

    Raises: DataError when the data set does not fill one batch.
    """
    sampler = ResumableSampler(len(dataset), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    return ClipLoader(dataset, sampler, workers=workers, start_method=start_method, pin_memory=pin_memory)


def make_eval_loader(
    dataset: ClipDataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int | Literal["auto"] = "auto",
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
) -> ClipLoader:
    """Every record of this process's share once, in order, the last batch as short as it is.

    `batch_size` counts records; each gives `dataset.views` clips. Workers end with each pass.
    """
    sampler = ResumableSampler(
        len(dataset), batch_size=batch_size, rank=rank, world_size=world_size, shuffle=False, drop_last=False
    )
    return ClipLoader(
        dataset, sampler, workers=workers, start_method=start_method, pin_memory=pin_memory, persistent=False
    )


def collate(
    items: Sequence[list[Clip] | BrokenClip], clip_shape: tuple[int, int, int, int] = (0, 3, 0, 0)
) -> VideoBatch:
    """The clips of several records as one batch, and the broken records beside them.

    `clip_shape` (T, C, H, W) is that of the empty tensor when all of them are broken.
    """
    clips = [clip for item in items if isinstance(item, list) for clip in item]
    broken = tuple(item for item in items if isinstance(item, BrokenClip))
    return VideoBatch(
        clip_BTCHW=torch.stack([clip.frames_TCHW for clip in clips]) if clips else torch.empty(0, *clip_shape),
        labels_B=torch.tensor([clip.label for clip in clips], dtype=torch.int64),
        indices_B=torch.tensor([clip.index for clip in clips], dtype=torch.int64),
        views_B=torch.tensor([clip.view for clip in clips], dtype=torch.int64),
        broken=broken,
    )


def available_cores() -> int:
    """CPU cores that this process may use: its affinity, and the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or "max"
        return cores


def auto_workers(local_processes: int = 1) -> int:
    """One worker a core, less the core that trains, at most 8; the cores are shared by the processes of a machine."""
    return max(0, min(MAX_AUTO_WORKERS, available_cores() // max(1, local_processes) - 1))


def _fit_shared_memory(workers: int, batch_bytes: int) -> tuple[int, int]:
    """(workers, batches ahead of each) whose batches fit into shared memory; overflowing it kills the process."""
    if not workers or not _SHARED_MEMORY.is_dir():
        return workers, PREFETCH
    free_bytes = shutil.disk_usage(_SHARED_MEMORY).free
    for count, prefetch in ((workers, PREFETCH), (workers, 1), (1, 1)):
        # one more a worker is being made, and one is in use
        if batch_bytes * (count * (prefetch + 1) + 1) <= free_bytes:
            if (count, prefetch) != (workers, PREFETCH):
                _logger.info("shared memory holds few batches: %d workers, %d batches ahead", count, prefetch)
            return count, prefetch
    _logger.warning(
        "shared memory (%s, %d MB free) is too small for batches of %d MB: loading in the main process, which is "
        "slower; give the container more (docker run --shm-size=8g), or lower data.batch_size",
        _SHARED_MEMORY, free_bytes >> 20, batch_bytes >> 20,
    )  # fmt: skip
    return 0, PREFETCH


def _start_worker(_worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the main process decides what they mean, and ends its workers.

    After SIGTERM a worker goes on for a moment, in which the main process can get the batch that it waits for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_AFTER_SIGTERM))
    torch.set_num_threads(1)
