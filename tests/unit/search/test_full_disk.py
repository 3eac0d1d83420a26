"""The embedded database on a full disk: an error first, since a write into a mapped file would end the process."""

from __future__ import annotations

import shutil
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest
import torch

from side4video.errors import StoreError
from side4video.search import qdrant_edge_store
from side4video.search.store import StoreIdentity, Window, WindowFilter, WindowPoint
from side4video.search.stores import open_store

Usage = namedtuple("Usage", ["total", "used", "free"])
NEEDED = qdrant_edge_store._RESERVE_BYTES


def point(number: int) -> WindowPoint:
    window = Window(f"v{number}.mp4", "hash", 0, 1, 0.0, 2.0, 2.0)
    return WindowPoint(window, torch.randn(3, 8, generator=torch.Generator().manual_seed(number)))


def test_nothing_is_written_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"bytes": 10 * NEEDED}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free["bytes"]))
    with closing(open_store(tmp_path / "store", identity=StoreIdentity(8), kind="qdrant-edge")) as store:
        store.upsert([point(1)])
        free["bytes"] = NEEDED + 2 * 3 * 8 * 4 - 1
        with pytest.raises(
            StoreError, match=r"store: the disk is full: 67\.1 MB are free, .* what is in the store stays"
        ):
            store.upsert([point(2)])
        with pytest.raises(StoreError, match="the disk is full"):
            store.optimise()
        free["bytes"] = NEEDED - 1
        with pytest.raises(StoreError, match="the disk is full"):
            store.delete(WindowFilter(paths=["v1.mp4"]))
        assert store.count() == 1
        free["bytes"] = 10 * NEEDED
        store.upsert([point(2)])
        assert store.count() == 2


def test_no_store_is_made_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, NEEDED - 1))
    with pytest.raises(StoreError, match="the disk is full"):
        open_store(tmp_path / "store", identity=StoreIdentity(8), kind="qdrant-edge")
    assert not (tmp_path / "store").exists()
