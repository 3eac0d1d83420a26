"""Neighbours of a list share a training batch, in any epoch and process, and the order goes on from anywhere."""

from __future__ import annotations

import pytest

from side4video.data.caption_loader import NeighbourSampler
from side4video.data.loaders import ResumableSampler

NUM, TOGETHER, BATCH = 26, 4, 8  # six runs, and two captions left over


def batches(rank: int = 0, world_size: int = 1, *, epoch: int = 0, first: int = 0, together: int = TOGETHER):
    sampler = NeighbourSampler(
        NUM, batch_size=BATCH, rank=rank, world_size=world_size, seed=3, shuffle=True, drop_last=True, together=together
    )
    sampler.set_position(epoch, first)
    return [[index for _, index in batch] for batch in sampler]


@pytest.mark.parametrize("world_size", [1, 2])
def test_runs_stay_whole_and_move(world_size: int) -> None:
    seen: set[tuple[int, ...]] = set()
    for epoch in range(4):
        found = [batch for rank in range(world_size) for batch in batches(rank, world_size, epoch=epoch)]
        assert {len(batch) for batch in found} == {BATCH}
        for batch in found:
            runs = [batch[start : start + TOGETHER] for start in range(0, BATCH, TOGETHER)]
            assert all(run == list(range(run[0], run[0] + TOGETHER)) for run in runs)
            assert all(run[0] % TOGETHER == 0 for run in runs)
        chosen = [index for batch in found for index in batch]
        assert len(chosen) == len(set(chosen)) == 24 // (BATCH * world_size) * BATCH * world_size
        seen.add(tuple(chosen))
    assert len(seen) == 4


def test_the_order_goes_on_from_anywhere() -> None:
    assert batches(epoch=2)[1:] == batches(epoch=2, first=1)


def test_one_is_the_ordinary_order() -> None:
    plain = ResumableSampler(NUM, batch_size=BATCH, seed=3)
    assert batches(together=1) == [[index for _, index in batch] for batch in plain]
