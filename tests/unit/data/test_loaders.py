"""Order, resumption, shards, collation, and worker processes that behave."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from side4video.batch import BrokenClip, Clip, VideoBatch
from side4video.data import loaders
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import ResumableSampler, StartMethod, collate, make_eval_loader, make_train_loader
from side4video.data.manifest import ClipRecord, Manifest
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import PixelFormat, TestTransform, TrainTransform
from side4video.errors import DataError, InputError

PIXELS = PixelFormat((20, 16), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bilinear")
T = 4
NUM_RECORDS = 13

_NoSampler = namedtuple("_NoSampler", "num_frames")
_Usage = namedtuple("_Usage", "total used free")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Thirteen frame folders of five noisy pictures; record 3 is missing."""
    root = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0)
    for number in range(NUM_RECORDS):
        folder = root / f"{number:02d}"
        if number == 3:
            continue
        folder.mkdir()
        for frame in range(1, 6):
            Image.fromarray(noise.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(folder / f"{frame:02d}.png")
    records = tuple(ClipRecord(str(root / f"{i:02d}"), i % 3, frame_pattern="{:02d}.png") for i in range(NUM_RECORDS))
    return Manifest(records, ("a", "b", "c"))


def _train_set(manifest: Manifest, repeats: int = 2) -> ClipDataset:
    return ClipDataset(
        manifest, sampler=FrameSampler("segment", T), transform=TrainTransform(PIXELS), seed=5, repeats=repeats
    )


def _test_set(manifest: Manifest) -> ClipDataset:
    return ClipDataset(
        manifest, sampler=FrameSampler("segment", T), transform=TestTransform(PIXELS, num_crops=3), mode="test"
    )


def _same(first: list[VideoBatch], second: list[VideoBatch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.clip_BTCHW, b.clip_BTCHW)
        and torch.equal(a.labels_B, b.labels_B)
        and torch.equal(a.indices_B, b.indices_B)
        and torch.equal(a.views_B, b.views_B)
        and a.broken == b.broken
        for a, b in zip(first, second, strict=True)
    )


def _no_children() -> bool:
    for _ in range(100):
        if not multiprocessing.active_children():
            return True
        time.sleep(0.05)
    return False


# order


def _indices(sampler: ResumableSampler) -> list[list[int]]:
    return [[index for _, index in batch] for batch in sampler]


@pytest.mark.parametrize(("n", "batch_size", "world_size"), [(13, 2, 1), (13, 2, 3), (24, 4, 2), (6, 3, 2)])
def test_training_ranks_share_each_epoch_without_overlap(n: int, batch_size: int, world_size: int) -> None:
    samplers = [
        ResumableSampler(n, batch_size=batch_size, seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    per_rank = [_indices(sampler) for sampler in samplers]
    assert {len(batches) for batches in per_rank} == {n // (batch_size * world_size)} == {len(samplers[0])}
    seen = [index for batches in per_rank for batch in batches for index in batch]
    assert all(len(batch) == batch_size for batches in per_rank for batch in batches)
    assert len(seen) == len(set(seen)) == n - n % (batch_size * world_size)


def test_order_changes_with_epoch_and_seed_and_covers_all_in_time() -> None:
    sampler = ResumableSampler(13, batch_size=4, seed=3)
    orders = []
    for epoch in range(12):
        sampler.set_position(epoch)
        assert {e for batch in sampler for e, _ in batch} == {epoch}
        orders.append(tuple(index for batch in _indices(sampler) for index in batch))
    assert len(set(orders)) == 12
    assert {index for order in orders for index in order} == set(range(13))
    assert _indices(ResumableSampler(13, batch_size=4, seed=4)) != _indices(ResumableSampler(13, batch_size=4, seed=3))


def test_a_position_gives_exactly_the_remaining_batches() -> None:
    whole = ResumableSampler(29, batch_size=3, seed=1)
    resumed = ResumableSampler(29, batch_size=3, seed=1)
    for epoch, batch in ((0, 0), (2, 4), (3, 9)):
        whole.set_position(epoch)
        resumed.set_position(epoch, batch)
        assert list(resumed) == list(whole)[batch:]
        assert len(resumed) == 9


@pytest.mark.parametrize("n", [1, 2, 7, 12])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_shards_without_padding(n: int, batch_size: int, world_size: int) -> None:
    shards = [
        ResumableSampler(n, batch_size=batch_size, rank=rank, world_size=world_size, shuffle=False, drop_last=False)
        for rank in range(world_size)
    ]
    assert sorted(index for shard in shards for batch in _indices(shard) for index in batch) == list(range(n))
    for shard in shards:
        batches = _indices(shard)
        assert len(batches) == len(shard)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert [index for batch in batches for index in batch] == sorted(index for batch in batches for index in batch)


def test_bad_orders() -> None:
    with pytest.raises(
        InputError, match="rank below world_size; got num_records=5, batch_size=2, rank=2, world_size=2"
    ):
        ResumableSampler(5, batch_size=2, rank=2, world_size=2)
    with pytest.raises(InputError, match="sizes must be at least 1"):
        ResumableSampler(5, batch_size=0)
    with pytest.raises(
        DataError, match=r"5 training clips do not fill one batch of 3 in each of 2 processes.*at most 2"
    ):
        ResumableSampler(5, batch_size=3, world_size=2)
    sampler = ResumableSampler(9, batch_size=2)
    for epoch, batch in ((-1, 0), (0, -1), (0, 5)):
        with pytest.raises(InputError, match=f"no position epoch={epoch}, batch={batch}: an epoch has 4 batches"):
            sampler.set_position(epoch, batch)
    sampler.set_position(0, 4)
    assert list(sampler) == []


# collation


def _clip(index: int, view: int = 0) -> Clip:
    return Clip(torch.full((T, 3, 5, 6), float(index)), index + 10, index, f"{index}.mp4", view)


def test_collate_keeps_clips_and_broken_records_apart() -> None:
    broken = BrokenClip(7, "7.mp4", "empty file")
    batch = collate([[_clip(1, 0), _clip(1, 1)], broken, [_clip(2)]])
    assert batch.clip_BTCHW.shape == (3, T, 3, 5, 6)
    assert batch.clip_BTCHW[:, 0, 0, 0, 0].tolist() == [1, 1, 2]
    assert [batch.labels_B.tolist(), batch.indices_B.tolist(), batch.views_B.tolist()] == [
        [11, 11, 12],
        [1, 1, 2],
        [0, 1, 0],
    ]
    assert {t.dtype for t in (batch.labels_B, batch.indices_B, batch.views_B)} == {torch.int64}
    assert batch.broken == (broken,)


def test_collate_of_broken_records_only() -> None:
    batch = collate([BrokenClip(7, "7.mp4", "empty file")], clip_shape=(T, 3, 5, 6))
    assert (len(batch), batch.clip_BTCHW.shape, len(batch.broken)) == (0, (0, T, 3, 5, 6), 1)
    assert batch.labels_B.shape == (0,)


# loading


def test_train_batches(manifest: Manifest) -> None:
    loader = make_train_loader(_train_set(manifest), batch_size=3, seed=2, workers=0)
    batches = list(loader)
    assert len(batches) == len(loader) == loader.batches_per_epoch == 4
    for batch in batches:
        records = 3 - len(batch.broken)
        assert batch.clip_BTCHW.shape == (2 * records, T, 3, 20, 16)
        assert batch.views_B.tolist() == [0, 1] * records
        assert batch.labels_B.tolist() == [index % 3 for index in batch.indices_B.tolist()]


def test_evaluation_batches(manifest: Manifest) -> None:
    per_rank = [
        list(make_eval_loader(_test_set(manifest), batch_size=2, rank=r, world_size=2, workers=0)) for r in (0, 1)
    ]
    indices = [index for batches in per_rank for batch in batches for index in batch.indices_B.tolist()]
    broken = [item.index for batches in per_rank for batch in batches for item in batch.broken]
    assert broken == [3]
    assert sorted(indices) == sorted([i for i in range(NUM_RECORDS) if i != 3] * 3)
    assert all(len(batch) <= 2 * 3 for batches in per_rank for batch in batches)


@pytest.mark.slow
def test_number_and_kind_of_workers_change_nothing(manifest: Manifest) -> None:
    def epochs(workers: int, method: StartMethod | None = None) -> list[VideoBatch]:
        loader = make_train_loader(_train_set(manifest), batch_size=3, seed=2, workers=workers, start_method=method)
        assert loader.num_workers == workers
        batches: list[VideoBatch] = []
        for epoch in (0, 4):  # the workers of epoch 0 must learn of epoch 4
            loader.seek(epoch)
            batches += list(loader)
        loader.close()
        return batches

    alone = epochs(0)
    assert not _same(alone[:4], alone[4:])
    assert _same(alone, epochs(1, "fork"))
    assert _same(alone, epochs(2, "fork"))
    assert _same(alone, epochs(1, "spawn"))
    assert _no_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_pass_sees_exactly_the_remaining_batches(manifest: Manifest, workers: int) -> None:
    whole = make_train_loader(_train_set(manifest), batch_size=3, seed=2, workers=workers)
    whole.seek(5)
    batches = list(whole)
    # another loader, another global state, and one pass abandoned before
    torch.manual_seed(77)
    resumed = make_train_loader(_train_set(manifest), batch_size=3, seed=2, workers=workers)
    for _ in resumed:
        break
    resumed.seek(5, 1)
    assert _same(list(resumed), batches[1:])
    whole.close()
    resumed.close()
    assert _no_children()


def test_loading_leaves_the_global_generator_alone(manifest: Manifest) -> None:
    for workers in (0, 1):
        before = torch.get_rng_state()
        loader = make_train_loader(_train_set(manifest), batch_size=3, workers=workers)
        list(loader)
        assert torch.equal(torch.get_rng_state(), before)
        loader.close()


# workers


@pytest.mark.parametrize("how", ["close", "delete", "break in evaluation", "error"])
def test_workers_end(manifest: Manifest, how: str) -> None:
    # after an error torch waits five seconds for each worker before it ends it
    train = make_train_loader(_train_set(manifest), batch_size=3, workers=1 if how == "error" else 2)
    evaluation = make_eval_loader(_test_set(manifest), batch_size=2, workers=2)
    if how == "break in evaluation":
        for _ in evaluation:
            assert len(multiprocessing.active_children()) == 2
            break
    elif how == "error":
        train.dataset.sampler = _NoSampler(T)  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(AttributeError, match="in DataLoader worker process"):
            list(train)
        train.close()
    else:
        assert len(list(train)) == 4
        assert len(multiprocessing.active_children()) == 2  # waiting for the next epoch
        if how == "close":
            train.close()
        del train
    gc.collect()
    assert _no_children()


def test_workers_ignore_ctrl_c_and_use_one_thread(manifest: Manifest) -> None:
    loader = make_train_loader(_train_set(manifest), batch_size=1, workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) == 12
    assert worker.is_alive()
    threads = len(list(Path(f"/proc/{worker.pid}/task").iterdir())) if Path("/proc").is_dir() else 2
    assert threads <= 3  # the worker, and the two that torch's queues and watchdog may keep
    loader.close()
    assert _no_children()


ORPHANS = """
import multiprocessing, pickle, sys, time
from side4video.data.loaders import make_train_loader
loader = make_train_loader(pickle.load(open(sys.argv[1], "rb")), batch_size=1, workers=2, start_method="fork")
next(iter(loader))
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(_train_set(manifest)))
    command = [sys.executable, "-c", ORPHANS, str(tmp_path / "data.pkl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        pids = [int(pid) for pid in main.stdout.readline().split()]
        assert len(pids) == 2
        main.kill()
        main.wait()
        deadline = time.monotonic() + 30
        while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# choices


def test_auto_workers(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    for cores, processes, expected in ((1, 1, 0), (2, 1, 1), (4, 1, 3), (64, 1, 8), (8, 4, 1), (2, 2, 0), (64, 8, 7)):
        monkeypatch.setattr(loaders, "available_cores", lambda cores=cores: cores)
        assert loaders.auto_workers(processes) == expected
    monkeypatch.setattr(loaders, "available_cores", lambda: 3)
    assert make_train_loader(_train_set(manifest), batch_size=3).num_workers == 2
    assert make_eval_loader(_test_set(manifest), batch_size=50).num_workers == 1  # one batch needs no second worker
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert make_train_loader(_train_set(manifest), batch_size=3).num_workers == 0


def test_available_cores_is_what_the_process_may_use() -> None:
    assert 1 <= loaders.available_cores() <= (os.cpu_count() or 1)


def test_small_shared_memory(
    monkeypatch: pytest.MonkeyPatch, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch is 3 records x 2 clips x 4x3x20x16 floats = 92,160 bytes."""
    batch = 92_160
    for room, expected in ((7, (2, 2)), (6, (2, 1)), (5, (2, 1)), (4, (1, 1)), (3, (1, 1)), (2, (0, 2))):
        usage = _Usage(10**9, 0, room * batch)
        monkeypatch.setattr(loaders.shutil, "disk_usage", lambda _path, usage=usage: usage)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            loader = make_train_loader(_train_set(manifest), batch_size=3, workers=2)
        assert (loader.num_workers, loader._prefetch) == expected, room  # pyright: ignore[reportPrivateUsage]
        assert ("too small for batches" in caplog.text) == (room == 2)
    assert len(list(loader)) == 4


def test_bad_workers(manifest: Manifest) -> None:
    with pytest.raises(InputError, match="workers must be 'auto' or at least 0; got -1"):
        make_train_loader(_train_set(manifest), batch_size=3, workers=-1)
