"""Restarted workers agree on a word that nobody had before, whoever comes first and whatever is left in the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from side4video.training.rendezvous import agree

WAIT = timedelta(seconds=20)


def attempt(store: HashStore, delays: Sequence[float]) -> list[str]:
    def come(rank: int) -> str:
        time.sleep(delays[rank])
        return agree(store, rank, len(delays), timeout=WAIT)

    with ThreadPoolExecutor(len(delays)) as pool:
        return list(pool.map(come, range(len(delays))))


def test_each_attempt_has_a_word_of_its_own() -> None:
    store = HashStore()
    # the first process is early, late, and in between: what it finds of the others is of the attempt before
    words = [attempt(store, delays) for delays in ([0, 0, 0], [0, 0.1, 0.2], [0.2, 0, 0.1], [0.1, 0.2, 0])]
    assert all(len(set(found)) == 1 for found in words)
    assert len({found[0] for found in words}) == 4
    assert agree(store, 0, 1, timeout=WAIT)


@pytest.mark.parametrize("rank", [0, 1])
def test_who_comes_alone_gives_up(rank: int) -> None:
    store = HashStore()
    attempt(store, [0, 0])
    with pytest.raises(TimeoutError, match=f"process {rank}: the other processes of this attempt did not come"):
        agree(store, rank, 2, timeout=timedelta(seconds=0.1))
