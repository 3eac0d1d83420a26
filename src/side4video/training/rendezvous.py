"""How workers that an agent (`torchrun`) has restarted find each other, and not what their predecessors left behind.

The agent keeps one key-value store over all restarts, and torch's process groups put their addresses under the same
keys each time. A worker that is a moment ahead would read the address of a process that is dead. So the first process
draws a word for this attempt, every other one takes it over in exchange for a word of its own, which nobody can have
known before, and everything of this attempt is stored under the first one's word.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

POLL_SECONDS = 0.02
TIMEOUT = timedelta(minutes=10)
_FOLDER = "side4video/attempt"


def under_agent() -> bool:
    """Whether an agent started this process, serves the store, and the group is still to be joined."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not dist.is_initialized()


def join_group(backend: str) -> None:
    """Start torch.distributed's group among the processes that the agent has started this time.

    Raises:
        TimeoutError: the others did not come.
    """
    store, rank, world_size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    fresh = PrefixStore(agree(store, rank, world_size, timeout=TIMEOUT), store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=world_size)


def agree(store: Store, rank: int, world_size: int, *, timeout: timedelta) -> str:
    """A word that the processes of this attempt share, and no earlier attempt had.

    Raises:
        TimeoutError: the others did not come.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    own, here = uuid.uuid4().hex, PrefixStore(_FOLDER, store)
    missing = set(range(1, world_size)) if rank == 0 else set[int]()
    if rank:
        here.set(f"word/{rank}", own)
    while rank or missing:
        if rank:
            word, _, answered = _read(here, f"answer/{rank}").partition(" ")
            if answered == own:
                here.set(f"taken/{rank}", word)
                return word
        for other in sorted(missing):
            if _read(here, f"taken/{other}") == own:
                missing.discard(other)
            else:
                # what stands there may be of an earlier attempt still: answered again until it is taken
                here.set(f"answer/{other}", f"{own} {_read(here, f'word/{other}')}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {rank}: the other processes of this attempt did not come in {timeout}")
        time.sleep(POLL_SECONDS)
    return own


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
