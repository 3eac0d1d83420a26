"""Opening a store: what is damaged, foreign, newer or in use is said clearly and left as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from side4video.errors import ConfigError, StoreError
from side4video.search import qdrant_edge_store
from side4video.search.flat_store import FlatStore
from side4video.search.lock import FolderLock
from side4video.search.qdrant_edge_store import QdrantEdgeStore
from side4video.search.store import StoreIdentity, VectorQuery, Window, WindowFilter, WindowPoint
from side4video.search.stores import KINDS, open_store

E = 5


def point(number: int) -> WindowPoint:
    window = Window("a.mp4", "h", number, 4, float(number), number + 2.0, 25.0)
    return WindowPoint(window, torch.randn(3, E, generator=torch.Generator().manual_seed(number)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Closed stores of four windows, one of each kind; copy before you change."""
    folders: dict[str, Path] = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind) / "store"
        store = open_store(folders[kind], identity=StoreIdentity(E, model={"name": "x"}), kind=kind)
        store.upsert([point(number) for number in range(4)])
        store.close()
    return folders


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def copy(made: dict[str, Path], kind: str, tmp_path: Path) -> Path:
    return shutil.copytree(made[kind], tmp_path / "store")


@pytest.fixture
def flat_copy(made: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made["flat"], tmp_path / "store")


@pytest.fixture
def edge_copy(made: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made["qdrant-edge"], tmp_path / "store")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, match: str, **options: object) -> None:
    """Opening fails with this message, changes nothing, and lets go of the lock."""
    before = snapshot(folder)
    with pytest.raises(StoreError, match=match):
        open_store(folder, **options)
    assert snapshot(folder) == before
    FolderLock(folder).acquire().release()


def test_opens_what_a_folder_holds_whatever_kind_is_asked_for(kind: str, copy: Path) -> None:
    store = open_store(copy, kind=next(other for other in KINDS if other != kind), identity=StoreIdentity(E + 1))
    assert isinstance(store, {"flat": FlatStore, "qdrant-edge": QdrantEdgeStore}[kind])
    assert (store.identity, store.count()) == (StoreIdentity(E, model={"name": "x"}), 4)
    store.close()
    store.close()  # harmless


def test_the_database_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    store = open_store(tmp_path / "empty", identity=StoreIdentity(E))
    assert isinstance(store, QdrantEdgeStore)
    store.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"library does not exist"):
        open_store(tmp_path / "library")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="store kind must be one of qdrant-edge, flat; got 'faiss'"):
        open_store(tmp_path / "library", kind="faiss")
    with pytest.raises(StoreError, match="'ftp://host' is neither a folder nor an address"):
        open_store("ftp://host")


def test_somebody_elses_folder(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "shard").mkdir(parents=True)
    (folder / "shard" / "a.safetensors").write_bytes(b"mine")
    refused(folder, r"photos is not a side4video vector store \(no store.json\)$")
    refused(folder, "not empty: left as it is", identity=StoreIdentity(E))
    (folder / "store.json").write_text('{"name": "my shop"}')
    refused(folder, "not a side4video vector store; left as it is")
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(StoreError, match="file is not a side4video vector store"):
        open_store(file, identity=StoreIdentity(E))
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layout": 2}, "layout 2 comes from a newer side4video; this one reads up to 1: upgrade"),
        ({"layout": 0}, "damaged: unexpected layout"),
        ({"layout": "1"}, "damaged: unexpected layout"),
        ({"embed_dim": 0}, "damaged: unexpected layout, kind, embed_dim"),
        ({"precision": "int8"}, "damaged: unexpected layout, kind, embed_dim, precision"),
        ({"model": None}, "damaged: unexpected"),
        ({"kind": "cloud"}, "unknown kind of store 'cloud'; known: qdrant-edge, flat"),
    ],
)
def test_a_store_file_that_is_not_ours_to_read(copy: Path, change: dict[str, object], match: str) -> None:
    meta = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps(meta | change))
    refused(copy, match)
    refused(copy, match, identity=StoreIdentity(E))


def test_a_store_file_cut_short(copy: Path) -> None:
    (copy / "store.json").write_bytes((copy / "store.json").read_bytes()[:40])
    refused(copy, "store.json: damaged: ")


def test_a_store_file_that_names_the_other_kind(copy: Path) -> None:
    meta = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps(meta | {"kind": next(k for k in KINDS if k != meta["kind"])}))
    refused(copy, "log.jsonl: No such file|damaged: the database's files are not there")


@pytest.mark.parametrize(
    "damage",
    [
        lambda shard: (shard / "edge_config.json").unlink(),
        lambda shard: shutil.rmtree(shard / "segments"),
        lambda shard: os.truncate(shard / "edge_config.json", 50),
        lambda shard: next((shard / "segments").glob("*/segment.json")).write_bytes(b"{"),
    ],
    ids=["no settings", "no segments", "settings cut short", "a segment's file cut short"],
)
def test_a_damaged_database(edge_copy: Path, damage: object) -> None:
    assert callable(damage)
    damage(edge_copy / "shard")
    refused(edge_copy, "store/shard: damaged: the database")


def test_damaged_flat_files(flat_copy: Path) -> None:
    log, shard = flat_copy / "log.jsonl", flat_copy / "00000001.safetensors"
    whole, tensors = log.read_bytes(), shard.read_bytes()
    shard.write_bytes(tensors[:-4])
    refused(flat_copy, r"log.jsonl, line 1: damaged: .*00000001.safetensors: .*; left as it is")
    shard.unlink()
    refused(flat_copy, r"line 1: damaged: .*No such file")
    shard.write_bytes(tensors)
    for line in (b"{}\n", b"[1]\n", b'{"op": "paint"}\n', b'{"op": "add", "sha\n', whole.replace(b'"fps"', b'"fpz"')):
        log.write_bytes(line + whole)
        refused(flat_copy, "log.jsonl, line 1: damaged: ")
    line = json.loads(whole)
    line["windows"].pop()
    log.write_text(json.dumps(line) + "\n")
    refused(flat_copy, "does not hold what the log says")


def test_a_log_line_cut_short_is_not_there(flat_copy: Path) -> None:
    store = open_store(flat_copy)
    store.upsert([point(number) for number in range(4, 6)])
    store.close()
    log = flat_copy / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-1])
    (flat_copy / "notes.safetensors").write_bytes(b"mine")
    (flat_copy / "00000009.safetensors.partial").write_bytes(b"begun")
    store = open_store(flat_copy)
    assert store.count() == 4
    assert sorted(p.name for p in flat_copy.glob("*.safetensors*")) == ["00000001.safetensors", "notes.safetensors"]
    store.upsert([point(4)])
    store.close()
    assert log.read_bytes().startswith(whole.split(b"\n")[0] + b"\n")
    store = open_store(flat_copy)
    assert store.count() == 5
    store.close()


def test_flat_files_that_are_not_needed_go(flat_copy: Path) -> None:
    store = open_store(flat_copy)
    for number in range(4, 8):
        store.upsert([point(number)])
    store.delete(WindowFilter(before_seconds=2.0))
    assert len(list(flat_copy.glob("*.safetensors"))) == 5
    store.optimise()
    assert [path.name for path in flat_copy.glob("*.safetensors")] == ["00000006.safetensors"]
    assert len((flat_copy / "log.jsonl").read_bytes().splitlines()) == 1
    (found,) = store.search(VectorQuery(point(5).frames_TE.mean(0)), limit=1, with_frames=True)
    assert found.window == point(5).window
    torch.testing.assert_close(found.frames_TE, point(5).frames_TE)
    store.close()


def test_a_full_disk_stores_nothing(flat_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store = open_store(flat_copy)
    whole = (flat_copy / "log.jsonl").read_bytes()
    monkeypatch.setattr("side4video.search.flat_store.os.fsync", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        store.upsert([point(7)])
    monkeypatch.undo()
    assert (store.count(), (flat_copy / "log.jsonl").read_bytes()) == (4, whole)
    store.upsert([point(7)])
    assert store.count() == 5
    store.close()


def test_one_process_at_a_time(copy: Path) -> None:
    script = (
        "import sys, time; from side4video.search.stores import open_store; "
        "s = open_store(sys.argv[1]); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(copy)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=rf"store is in use by process {other.pid} \(`-c .*store`\) since 20"):
            open_store(copy)
        begin = time.monotonic()
        with pytest.raises(StoreError, match="one process at a time: wait for it, or stop it"):
            open_store(copy, wait_seconds=0.3)
        assert time.monotonic() - begin >= 0.3
        other.kill()
    store = open_store(copy)
    assert store.count() == 4
    with pytest.raises(StoreError, match=rf"in use by this very process \({os.getpid()}\)"):
        open_store(copy)
    store.close()


def test_a_database_held_without_our_lock(edge_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as workers do that outlive a killed process
    monkeypatch.setattr(qdrant_edge_store, "_WORKERS_SECONDS", 0.2)
    store = open_store(edge_copy)
    assert isinstance(store, QdrantEdgeStore)
    store._lock.release()
    with pytest.raises(StoreError, match="still held by another process, perhaps a worker of one that was killed"):
        open_store(edge_copy)
    store.close()


def test_a_store_is_made_whole_or_not_at_all(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("side4video.search.layout.write_json", fail)
    with pytest.raises(StoreError, match="store: cannot be made: No space left on device"):
        open_store(tmp_path / "store", identity=StoreIdentity(E), kind=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["store.lock"]
    monkeypatch.undo()
    (tmp_path / "store.partial").mkdir()  # what a kill leaves
    store = open_store(tmp_path / "store", identity=StoreIdentity(E), kind=kind)
    assert store.count() == 0
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "store.lock"]


def test_a_log_file_that_is_renamed_meanwhile_is_written_out_under_its_new_name(
    edge_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(edge_copy)
    log = next(edge_copy.rglob("wal"))
    (log / "tmp-open-9").write_bytes(b"")
    synced: list[str] = []
    real_open = os.open

    def rename_first(path: Path, flags: int) -> int:
        if Path(path).name == "tmp-open-9":
            Path(path).rename(log / "open-9")
        synced.append(Path(path).name)
        return real_open(path, flags)

    with monkeypatch.context() as patch:
        patch.setattr(qdrant_edge_store.os, "open", rename_first)
        store.upsert([point(9)])
    (log / "open-9").unlink()
    assert "tmp-open-9" in synced
    assert "open-9" in synced
    assert store.count() == 5
    store.close()
