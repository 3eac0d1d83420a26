"""The ledger of a library: which videos are in it for good. One line of JSON an event, flushed to the disk.

A video counts from the moment that its line is on the disk, which is after all of its windows are. A line that a crash
cut short is not there. The file is written anew, complete or not at all, when most of its lines are out of date.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from side4video.errors import StoreError
from side4video.search.footage import FileState
from side4video.training.files import sync_folder, write_bytes

_FORMAT = "side4video library ledger"
LAYOUT = 1
_STALE_LINES = 1000  # as many may be out of date before the file is written anew


@dataclass(frozen=True)
class LedgerEntry:
    """One video of the library: what it contains, how its file looked, and how many windows it has."""

    path: str
    content_hash: str
    size: int
    mtime_ns: int
    num_windows: int

    @property
    def state(self) -> FileState:
        """How the file looked when it was indexed."""
        return FileState(self.size, self.mtime_ns)


class Ledger:
    """The videos of a library by path, and the run that embedded them; changes are on the disk when a method returns.

    Without a file (`path` is None) it lives in memory only: a server keeps no ledger. When the file is not there
    (`is_there`), `create` comes before anything else.

    Raises:
        StoreError: damaged, of another layout, or unreadable; left as it is.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: dict[str, LedgerEntry] = {}
        self.run: str | None = None
        self.is_there = path is not None and path.is_file()
        self._file: IO[bytes] | None = None
        self._lines = 0
        if path is not None and self.is_there:
            self._open(path)

    @property
    def num_windows(self) -> int:
        """Windows of all videos."""
        return sum(entry.num_windows for entry in self.entries.values())

    def create(self, entries: Iterable[LedgerEntry]) -> None:
        """Make the file, with these videos in it, complete or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        self.entries = {entry.path: entry for entry in entries}
        if self.path is not None:
            self._write_anew(self.path)
            self.is_there = True

    def add(self, entry: LedgerEntry) -> None:
        """The video is in the library, in place of what its path held before.

        Raises:
            StoreError: it cannot be written; the video is not in.
        """
        self._append({"op": "video", **asdict(entry)})

    def remove(self, path: str) -> None:
        """The video is not in the library any more.

        Raises:
            StoreError: it cannot be written.
        """
        self._append({"op": "gone", "path": path})

    def set_run(self, run: str) -> None:
        """Where the run is that search loads the model from.

        Raises:
            StoreError: it cannot be written.
        """
        if run != self.run:
            self._append({"op": "run", "path": run})

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from None
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        for number, line in enumerate(lines, 1):
            try:
                event = cast("dict[str, Any]", json.loads(line))
                if number == 1:
                    self._check_first(event)
                else:
                    self._replay(event)
            except StoreError:
                raise
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{path}, line {number}: damaged: {error}; left as it is") from None
        if not lines:
            raise StoreError(f"{path}: damaged: it has no first line; left as it is")
        self._lines = len(lines)
        if self._lines > 2 * len(self.entries) + _STALE_LINES:
            self._write_anew(path)
            return
        self._file = path.open("r+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def _check_first(self, event: dict[str, Any]) -> None:
        if event.get("format") != _FORMAT:
            raise StoreError(f"{self.path}: not the ledger of a side4video library; left as it is")
        if event.get("layout") != LAYOUT:
            raise StoreError(
                f"{self.path}: layout {event.get('layout')} belongs to another version of side4video, this one has "
                f"{LAYOUT}: use that version, or index into another folder. Left as it is"
            )

    def _write_anew(self, path: Path) -> None:
        events: list[dict[str, Any]] = [{"op": "ledger", "format": _FORMAT, "layout": LAYOUT}]
        events += [{"op": "run", "path": self.run}] if self.run is not None else []
        events += [{"op": "video", **asdict(entry)} for entry in self.entries.values()]
        try:
            write_bytes(path, b"".join(_line(event) for event in events))
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from None
        self._lines = len(events)
        self._file = path.open("r+b")
        self._file.seek(0, os.SEEK_END)

    def _append(self, event: dict[str, Any]) -> None:
        if self.path is not None:
            assert self._file is not None, "create the ledger first"
            end = self._file.tell()
            try:
                self._file.write(_line(event))
                self._file.flush()
                os.fsync(self._file.fileno())
                sync_folder(self.path.parent)
            except OSError as error:
                self._file.truncate(end)
                self._file.seek(end)
                raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from None
            self._lines += 1
        self._replay(event)

    def _replay(self, event: dict[str, Any]) -> None:
        if event["op"] == "video":
            fields = {name: event[name] for name in LedgerEntry.__dataclass_fields__}
            self.entries[fields["path"]] = LedgerEntry(**fields)
        elif event["op"] == "gone":
            self.entries.pop(event["path"], None)
        elif event["op"] == "run":
            self.run = str(event["path"])
        else:
            raise ValueError(f"unknown event {event['op']!r}")


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"
