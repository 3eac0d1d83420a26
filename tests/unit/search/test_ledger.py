"""The ledger: what it says after a crash, what it refuses, and that it does not grow for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from side4video.errors import StoreError
from side4video.search import ledger as ledger_module
from side4video.search.footage import FileState
from side4video.search.ledger import Ledger, LedgerEntry


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # a busy disk takes seconds for it; one test looks whether it is called
    monkeypatch.setattr(ledger_module.os, "fsync", lambda _: None)


def entry(name: str, digest: str = "h1") -> LedgerEntry:
    return LedgerEntry(f"/videos/{name}", digest, 10, 20, 3)


def new(path: Path) -> Ledger:
    ledger = Ledger(path)
    assert not ledger.is_there
    ledger.create([])
    return ledger


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    ledger = new(tmp_path / "ledger.jsonl")
    ledger.set_run("/runs/a")
    for name in ("a", "b", "ü"):
        ledger.add(entry(name))
    ledger.add(entry("a", "h2"))
    ledger.remove("/videos/b")
    ledger.close()
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.is_there
    assert again.run == "/runs/a"
    assert again.entries == {"/videos/a": entry("a", "h2"), "/videos/ü": entry("ü")}
    assert again.num_windows == 6
    assert again.entries["/videos/a"].state == FileState(10, 20)
    again.close()


def test_a_line_that_was_cut_short_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = new(path)
    ledger.add(entry("a"))
    whole = path.read_bytes()
    ledger.add(entry("b"))
    ledger.close()
    content = path.read_bytes()
    for length in (*range(len(whole), len(content), 29), len(content) - 1):
        path.write_bytes(content[:length])
        cut = Ledger(path)
        assert list(cut.entries) == ["/videos/a"]
        cut.add(entry("c"))
        cut.close()
        after = Ledger(path)
        assert list(after.entries) == ["/videos/a", "/videos/c"]
        after.close()


def test_it_is_on_the_disk_before_a_method_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = new(path)
    synced: list[bytes] = []
    monkeypatch.setattr(ledger_module.os, "fsync", lambda _: synced.append(path.read_bytes()))
    ledger.add(entry("a"))
    assert b"/videos/a" in synced[0]
    ledger.close()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = new(path)
    ledger.add(entry("a"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module.os, "fsync", full)
        with pytest.raises(StoreError, match="cannot be written: No space left"):
            ledger.add(entry("b"))
    assert list(ledger.entries) == ["/videos/a"]
    ledger.add(entry("c"))
    ledger.close()
    again = Ledger(path)
    assert list(again.entries) == ["/videos/a", "/videos/c"]
    again.close()


def test_old_lines_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_STALE_LINES", 20)
    path = tmp_path / "ledger.jsonl"
    ledger = new(path)
    ledger.set_run("/runs/a")
    for number in range(30):
        ledger.add(entry("a", f"h{number}"))
    ledger.close()
    assert len(path.read_bytes().splitlines()) == 32
    again = Ledger(path)
    assert len(path.read_bytes().splitlines()) == 3
    assert (again.entries, again.run) == ({"/videos/a": entry("a", "h29")}, "/runs/a")
    again.add(entry("b"))
    again.close()
    last = Ledger(path)
    assert list(last.entries) == ["/videos/a", "/videos/b"]
    last.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"op": "ledger", "format": "side4video library ledger", "layout": 7}\n',
            "layout 7 belongs to another version",
        ),
        (
            '{"op": "ledger", "format": "side4video library ledger", "layout": 0}\n',
            "layout 0 belongs to another version",
        ),
        ('{"format": "notes"}\n', "not the ledger of a side4video library"),
        ("hello\n", "line 1: damaged"),
        ("", "no first line"),
        ('{"format": "side4video library ledger", "layout": 1}\n{"op": "jump"}\n', "line 2: damaged: unknown event"),
        ('{"format": "side4video library ledger", "layout": 1}\n{"op": "video"}\n', "line 2: damaged"),
    ],
)
def test_what_is_refused_stays_as_it_is(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(content)
    with pytest.raises(StoreError, match=message):
        Ledger(path)
    assert path.read_text() == content


def test_without_a_file_it_lives_in_memory() -> None:
    ledger = Ledger(None)
    ledger.create([entry("a")])
    ledger.add(entry("b"))
    assert list(ledger.entries) == ["/videos/a", "/videos/b"]
    assert json.dumps(ledger.run) == "null"
    ledger.close()
