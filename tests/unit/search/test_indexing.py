"""Bringing a library up to date, with an embedder that only counts: what is embedded, copied, kept, removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from side4video.errors import StoreError, VideoError
from side4video.search.embedding import EmbeddedWindow, WindowSettings
from side4video.search.footage import FileState, content_hash, file_state, stored_path
from side4video.search.indexing import IndexReport, index_footage, pending_bytes
from side4video.search.library import LEDGER_FILE, STORE_FOLDER, Library, LibraryIdentity, check_kept, open_library
from side4video.search.library import make_library as make
from side4video.search.store import StoreIdentity, VectorQuery, WindowFilter, WindowPoint
from side4video.search.stores import open_store

WIDTH = 6
MODEL = {"backbone": "small", "backbone_hash": "b" * 64, "weights_hash": "w" * 64, "text_hash": None}
IDENTITY = LibraryIdentity(MODEL, WindowSettings(4, 2, 2.0))


class CountingEmbedder:
    """Three windows, of odd files two, of numbers that come from the file's bytes; `bad` in a file is no video."""

    settings = IDENTITY.windows

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.meanwhile: Callable[[], Any] = lambda: None

    def embed(self, path: Path, *, on_progress: Callable[[float], None] | None = None) -> list[EmbeddedWindow]:
        content = path.read_bytes()
        if b"bad" in content:
            raise VideoError(path, "damaged")
        self.meanwhile()
        self.embedded.append(path.name)
        if on_progress is not None:
            on_progress(0.5)
        generator = torch.Generator().manual_seed(sum(content) + 1)
        count = 3 - len(content) % 2
        return [
            EmbeddedWindow(
                float(n), n + 2.0, 2.0, (n, n + 0.5, n + 1, n + 1.5), torch.randn(4, WIDTH, generator=generator)
            )
            for n in range(count)
        ]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # only a power cut would tell; `test_ledger` and the stores' tests see to it
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    folder = tmp_path / "footage"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.mp4").write_text(f"content of {name}")
    return folder


def make_library(into: Path, **more: Any) -> Library:
    return make(into, IDENTITY, run=into.parent / "run", embed_dim=WIDTH, kind="flat", **more)


def update(into: Path, embedder: CountingEmbedder, footage: Path, **more: Any) -> IndexReport:
    embedder.embedded.clear()
    with make_library(into) as library:
        return index_footage(library, embedder, sorted(footage.glob("*.mp4")), places=[footage], **more)  # type: ignore[arg-type]


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def stored(into: Path) -> dict[str, int]:
    """Windows of each video in the store itself, after checking that the ledger says the same."""
    with open_library(into) as library:
        counts = {Path(v.path).name: v.stored_windows for v in library.store.videos()}
        assert {Path(path).name: e.num_windows for path, e in library.entries.items()} == counts
        assert library.store.count() == library.ledger.num_windows
        return counts


def test_only_what_is_new_or_has_changed_is_embedded(tmp_path: Path, footage: Path, embedder: CountingEmbedder) -> None:
    lib = tmp_path / "lib"
    assert names(update(lib, embedder, footage).embedded) == ["a.mp4", "b.mp4", "c.mp4"]
    assert stored(lib) == {"a.mp4": 3, "b.mp4": 3, "c.mp4": 3}
    report = update(lib, embedder, footage)
    assert (embedder.embedded, len(report.unchanged)) == ([], 3)
    (footage / "b.mp4").write_text("something odd")
    (footage / "d.mp4").write_text("content of d")
    os.utime(footage / "c.mp4", (1, 1))
    report = update(lib, embedder, footage)
    assert embedder.embedded == ["b.mp4", "d.mp4"]
    assert names(report.unchanged) == ["a.mp4", "c.mp4"], "another time, the same content"
    assert stored(lib) == {"a.mp4": 3, "b.mp4": 2, "c.mp4": 3, "d.mp4": 3}


def test_a_file_is_not_read_when_size_and_time_are_the_same(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(tmp_path / "lib", embedder, footage)
    monkeypatch.setattr("side4video.search.indexing.content_hash", lambda path: pytest.fail(f"{path} was read"))
    assert len(update(tmp_path / "lib", embedder, footage).unchanged) == 3


def test_moved_and_copied_files_are_known_by_their_content(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder
) -> None:
    lib = tmp_path / "lib"
    update(lib, embedder, footage)
    with open_library(lib) as library:
        (before,) = (f for f in library.store.fetch([_id(library, footage / "a.mp4", 1)], with_frames=True))
    (footage / "a.mp4").rename(footage / "moved.mp4")
    shutil.copy(footage / "b.mp4", footage / "copy.mp4")
    report = update(lib, embedder, footage)
    assert embedder.embedded == []
    assert names(report.copied) == ["copy.mp4", "moved.mp4"]
    assert names(report.removed) == ["a.mp4"], "without --prune: it is still there, under another name"
    assert stored(lib) == {"b.mp4": 3, "c.mp4": 3, "copy.mp4": 3, "moved.mp4": 3}
    with open_library(lib) as library:
        (after,) = (f for f in library.store.fetch([_id(library, footage / "moved.mp4", 1)], with_frames=True))
    assert after.frames_TE is not None
    assert before.frames_TE is not None
    torch.testing.assert_close(after.frames_TE, before.frames_TE, atol=1e-6, rtol=0)
    assert after.window.start_seconds == before.window.start_seconds == 1


def _id(library: Library, path: Path, number: int) -> str:
    where = WindowFilter(paths=[stored_path(path)])
    return next(f.window.id for batch in library.store.scan(where) for f in batch if f.window.number == number)


def test_deleted_videos_go_with_prune_and_only_below_the_named_places(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder
) -> None:
    lib, other = tmp_path / "lib", tmp_path / "other"
    other.mkdir()
    (other / "x.mp4").write_text("elsewhere")
    update(lib, embedder, footage)
    update(lib, embedder, other)
    (footage / "a.mp4").unlink()
    (other / "x.mp4").unlink()
    report = update(lib, embedder, footage)
    assert (names(report.missing), report.removed) == (["a.mp4", "x.mp4"], [])
    report = update(lib, embedder, footage, prune=True)
    assert (names(report.missing), names(report.removed)) == (["x.mp4"], ["a.mp4"])
    assert stored(lib) == {"b.mp4": 3, "c.mp4": 3, "x.mp4": 2}


def test_what_cannot_be_read_is_named_and_nothing_is_lost(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder
) -> None:
    lib = tmp_path / "lib"
    update(lib, embedder, footage)
    (footage / "b.mp4").write_text("bad")
    (footage / "e.mp4").write_text("bad too")
    os.mkfifo(footage / "f.mp4")
    embedder.meanwhile = lambda: (footage / "g.mp4").write_text("still being written")
    (footage / "g.mp4").write_text("being written")
    report = update(lib, embedder, footage)
    assert [(Path(path).name, reason) for path, reason in report.unreadable] == [
        ("b.mp4", "damaged"),
        ("e.mp4", "damaged"),
        ("f.mp4", "not a regular file"),
        ("g.mp4", "changed while it was read"),
    ]
    assert stored(lib) == {"a.mp4": 3, "b.mp4": 3, "c.mp4": 3}, "of b, what was there before"
    odd = Path(os.fsdecode(bytes(footage / "odd-") + b"\xff.mp4"))
    with make_library(lib) as library:
        odd.write_text("fine")
        report = index_footage(library, embedder, [odd, footage / "gone.mp4"])  # type: ignore[arg-type]
    assert [reason for _, reason in report.unreadable] == ["its name is not valid text", "No such file or directory"]


@pytest.mark.parametrize("step", ["upsert", "ledger", "delete"])
def test_a_crash_between_any_two_steps_is_mended(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A new version of `b` goes in and the process dies after the first window, before the line, or after it."""
    lib = tmp_path / "lib"
    update(lib, embedder, footage)
    (footage / "b.mp4").write_text("something odd")

    def die(*_: object) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        if step == "upsert":
            monkeypatch.setattr("side4video.search.library._BATCH_WINDOWS", 1)
            upsert, done = _flat().upsert, []

            def first_only(self: Any, points: list[WindowPoint]) -> None:
                die() if done else done.append(upsert(self, points))

            patch.setattr(_flat(), "upsert", first_only)
        else:
            patch.setattr(
                *(("side4video.search.ledger.Ledger.add", die) if step == "ledger" else (_flat(), "delete", die))
            )
        with pytest.raises(SystemExit):
            update(lib, embedder, footage)
    with open_library(lib) as library:
        shown = [f.window for batch in library.store.scan() for f in batch if library.holds(f.window)]
        assert {Path(w.path).name: w.num_windows for w in shown} == {
            "a.mp4": 3,
            "b.mp4": 2 + (step != "delete"),
            "c.mp4": 3,
        }
        assert library.store.count() > library.ledger.num_windows, "there is something to mend"
    report = update(lib, embedder, footage)
    assert embedder.embedded == ([] if step == "delete" else ["b.mp4"])
    assert len(report.unchanged) + len(report.embedded) == 3
    assert stored(lib) == {"a.mp4": 3, "b.mp4": 2, "c.mp4": 3}


def _flat() -> Any:
    from side4video.search.flat_store import FlatStore

    return FlatStore


def test_a_video_that_lost_windows_is_indexed_again(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    lib = tmp_path / "lib"
    update(lib, embedder, footage)
    with open_library(lib) as library:
        library.store.delete(WindowFilter(paths=[stored_path(footage / "b.mp4")]))
    update(lib, embedder, footage)
    assert embedder.embedded == ["b.mp4"]
    assert "b.mp4 is not complete any more" in caplog.text
    assert stored(lib)["b.mp4"] == 3


def test_a_lost_ledger_is_made_again(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    lib = tmp_path / "lib"
    update(lib, embedder, footage)
    with open_library(lib) as library:
        entries = dict(library.entries)
    (lib / LEDGER_FILE).unlink()
    with open_library(lib) as library:
        assert library.entries == entries
    assert "ledger.jsonl is gone" in caplog.text
    assert len(update(lib, embedder, footage).unchanged) == 3


def test_another_model_is_refused(tmp_path: Path, footage: Path, embedder: CountingEmbedder) -> None:
    lib = tmp_path / "lib"
    update(lib, embedder, footage)
    for changed in ("backbone_hash", "weights_hash", "text_hash"):
        other = {**MODEL, changed: "f" * 64}
        with pytest.raises(StoreError, match="indexed with another model than /runs/new"):
            check_kept(lib, other, Path("/runs/new"))
        with pytest.raises(StoreError, match=r"backbone 'small' bbbbbbbbbbbb, weights wwwwwwwwwwww; this is"):
            make(lib, LibraryIdentity(other, IDENTITY.windows), run=Path("/runs/new"), embed_dim=WIDTH)
    check_kept(lib, {**MODEL, "backbone": "the same under another name"}, Path("/runs/new"))
    with make_library(lib) as library:
        assert library.run == tmp_path / "run"


def test_the_run_may_move(tmp_path: Path, footage: Path, embedder: CountingEmbedder) -> None:
    update(tmp_path / "lib", embedder, footage)
    make(tmp_path / "lib", IDENTITY, run=tmp_path / "moved", embed_dim=WIDTH).close()
    with open_library(tmp_path / "lib") as library:
        assert library.run == tmp_path / "moved"


def test_folders_that_are_no_library(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist; `side4video index"):
        open_library(tmp_path / "gone")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("hello")
    with pytest.raises(StoreError, match="is no library; `side4video index"):
        open_library(tmp_path / "notes")
    with pytest.raises(StoreError, match="no library and not empty: left as it is"):
        make_library(tmp_path / "notes")
    with pytest.raises(StoreError, match="is a file; a library is a folder"):
        make_library(tmp_path / "notes" / "mine.txt")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "notes"]
    store = open_store(tmp_path / "bare" / STORE_FOLDER, identity=StoreIdentity(WIDTH), kind="flat")
    store.close()
    with pytest.raises(StoreError, match="not a library of footage"):
        open_library(tmp_path / "bare")


def test_a_library_of_another_layout(tmp_path: Path, footage: Path, embedder: CountingEmbedder) -> None:
    lib = tmp_path / "lib"
    update(lib, embedder, footage)
    ledger = lib / LEDGER_FILE
    first, *rest = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join([json.dumps({**json.loads(first), "layout": 2}) + "\n", *rest]))
    with pytest.raises(StoreError, match="layout 2 belongs to another version"):
        open_library(lib)
    # the store was let go
    open_store(lib / STORE_FOLDER).close()
    store = lib / STORE_FOLDER / "store.json"
    store.write_text(json.dumps({**json.loads(store.read_text()), "layout": 99}))
    for opening in (lambda: open_library(lib), lambda: check_kept(lib, MODEL, Path("run"))):
        with pytest.raises(StoreError, match="layout 99 comes from a newer side4video"):
            opening()


def test_progress_and_what_is_left_to_do(tmp_path: Path, footage: Path, embedder: CountingEmbedder) -> None:
    heard: list[tuple[str, float]] = []
    (footage / "b.mp4").write_text("bad")
    videos = sorted(footage.glob("*.mp4"))
    with make_library(tmp_path / "lib") as library:
        assert list(pending_bytes(library, [*videos, footage / "gone.mp4"]).values()) == [12, 3, 12]
        index_footage(library, embedder, videos, on_progress=lambda path, share: heard.append((path.name, share)))  # type: ignore[arg-type]
        assert list(pending_bytes(library, videos).values()) == [0, 3, 0]
    assert heard == [("a.mp4", 0.5), ("a.mp4", 1), ("b.mp4", 1), ("c.mp4", 0.5), ("c.mp4", 1)]


def test_a_folder_of_pictures_is_one_video(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{number}.jpg").write_text("x" * number)
        os.utime(folder / f"{number}.jpg", (number, number))
    before = content_hash(folder)
    assert file_state(folder) == FileState(3, 2 * 10**9)
    assert content_hash(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    (folder / "1.jpg").write_text("y")
    assert content_hash(folder) != before
    (folder / "1.jpg").write_text("x")
    (folder / "1.jpg").rename(folder / "3.jpg")
    assert content_hash(folder) != before, "another order"


def test_search_over_a_library_sees_what_was_indexed(tmp_path: Path, footage: Path, embedder: CountingEmbedder) -> None:
    update(tmp_path / "lib", embedder, footage)
    wanted = embedder.embed(footage / "b.mp4")[1].frames_TE
    with open_library(tmp_path / "lib") as library:
        (best, *_) = library.store.search(VectorQuery(wanted.mean(0)), limit=3)
        assert (Path(best.window.path).name, best.window.number) == ("b.mp4", 1)
        assert best.window.content_hash == content_hash(footage / "b.mp4")


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_a_server_keeps_no_ledger_and_knows_the_same(
    tmp_path: Path, footage: Path, embedder: CountingEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own local mode stands in for a server: the same calls, the same answers."""
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda **_: None)
    monkeypatch.setattr("side4video.search.stores.connect", lambda url: client)
    address = "http://footage.example:6333#mine"

    def once(**more: Any) -> IndexReport:
        embedder.embedded.clear()
        with make(address, IDENTITY, run=tmp_path / "run", embed_dim=WIDTH) as library:
            videos = sorted(footage.glob("*.mp4"))
            return index_footage(library, embedder, videos, places=[footage], **more)  # type: ignore[arg-type]

    assert len(once().embedded) == 3
    assert client.collection_exists("mine")
    assert (len(once().unchanged), embedder.embedded) == (3, [])
    (footage / "b.mp4").write_text("something odd")
    (footage / "c.mp4").rename(footage / "moved.mp4")
    report = once()
    assert (embedder.embedded, names(report.copied), names(report.removed)) == (["b.mp4"], ["moved.mp4"], ["c.mp4"])
    # a process that was killed left one window of a video
    with open_library(address) as library:
        assert {Path(path).name: e.num_windows for path, e in library.entries.items()} == {
            "a.mp4": 3, "b.mp4": 2, "moved.mp4": 3,
        }  # fmt: skip
        assert library.run == tmp_path / "run"
        (found,) = library.store.search(VectorQuery(torch.ones(WIDTH)), limit=1, with_frames=True)
        half = type(found.window)(**{**vars(found.window), "path": "/half.mp4", "number": 0, "num_windows": 2})
        assert found.frames_TE is not None
        library.store.upsert([WindowPoint(half, found.frames_TE)])
    with open_library(address) as library:
        assert len(library.entries) == 3
    with pytest.raises(StoreError, match="another model"):
        make(address, LibraryIdentity({**MODEL, "weights_hash": "f"}, IDENTITY.windows), run=tmp_path, embed_dim=WIDTH)
