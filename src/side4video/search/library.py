"""A library of footage: a vector store, the ledger of the videos that are in it for good, and the model they belong to.

    LIB/store/          the vectors (`stores.open_store`), locked while anybody uses them
    LIB/ledger.jsonl    one line for every video that is completely in the store

A video's windows go into the store first and its line into the ledger last, so the ledger is what counts. A crash may
leave windows in the store that no line speaks of: they are not shown, and `Library.tidy` removes them. On a server
there is no ledger; there a video counts when all of its windows are there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from side4video.errors import StoreError
from side4video.search.embedding import EmbeddedWindow, WindowSettings
from side4video.search.footage import FileState
from side4video.search.layout import is_store, read_folder
from side4video.search.ledger import Ledger, LedgerEntry
from side4video.search.run_identity import describe_model, same_model
from side4video.search.store import Precision, StoreIdentity, VectorStore, Window, WindowFilter, WindowPoint
from side4video.search.stores import StoreKind, open_store

STORE_FOLDER = "store"
LEDGER_FILE = "ledger.jsonl"
_LIBRARY = "side4video library"
_BATCH_WINDOWS = 256
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LibraryIdentity:
    """What makes the windows of a library comparable: the model, by its hashes, and how videos are cut."""

    model: Mapping[str, Any]
    windows: WindowSettings

    def as_json(self, run: str) -> dict[str, Any]:
        """What the store keeps; `run` is where the model lay when the library was made."""
        return {"kind": _LIBRARY, "model": dict(self.model), "windows": self.windows.as_json(), "run": run}


class Library:
    """An open library, one process at a time; a context manager. `open_library` and `make_library` make it."""

    def __init__(self, store: VectorStore, ledger: Ledger, where: str) -> None:
        self.store = store
        self.ledger = ledger
        self.where = where
        kept = store.identity.model
        if kept.get("kind") != _LIBRARY:
            raise StoreError(f"{where}: a vector store, but not a library of footage; left as it is")
        try:
            self.identity = LibraryIdentity(dict(kept["model"]), WindowSettings.from_json(kept["windows"]))
            self._first_run = str(kept["run"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{where}: damaged: its model and windows cannot be read ({error}); left as it is"
            ) from None
        self._is_local = ledger.path is not None
        if self._is_local and not ledger.is_there:
            ledger.create(self._complete_entries())
        self._server_entries_read = self._is_local

    @property
    def run(self) -> Path:
        """The run that last indexed into it."""
        return Path(self.ledger.run or self._first_run)

    @property
    def entries(self) -> Mapping[str, LedgerEntry]:
        """The videos that are in it for good, by path."""
        if not self._server_entries_read:
            self._server_entries_read = True
            self.ledger.create(self._complete_entries())
        return self.ledger.entries

    def check_model(self, model: Mapping[str, Any], run: Path) -> None:
        """Refuse a model other than the one that embedded the library.

        Raises:
            StoreError: the models differ; the message names both.
        """
        _check_same(self.identity.model, model, run, self.where)

    def add(
        self, path: str, content_hash: str, state: FileState, windows: Sequence[EmbeddedWindow | WindowPoint]
    ) -> None:
        """Put a video in, in place of what its path held before. When it returns, the video is in for good.

        Raises:
            StoreError: it cannot be written; the library is as it was.
        """
        extra = {"size": state.size, "mtime_ns": state.mtime_ns}
        points = [
            WindowPoint(
                Window(
                    path=path,
                    content_hash=content_hash,
                    number=number,
                    num_windows=len(windows),
                    start_seconds=w.window.start_seconds if isinstance(w, WindowPoint) else w.start_seconds,
                    end_seconds=w.window.end_seconds if isinstance(w, WindowPoint) else w.end_seconds,
                    fps=w.window.fps if isinstance(w, WindowPoint) else w.fps,
                    # once is enough to make a ledger from
                    extra=extra if number == 0 else {},
                ),
                w.frames_TE,
            )
            for number, w in enumerate(windows)
        ]
        for first in range(0, len(points), _BATCH_WINDOWS):
            self.store.upsert(points[first : first + _BATCH_WINDOWS])
        before = self.entries.get(path)
        self.ledger.add(LedgerEntry(path, content_hash, state.size, state.mtime_ns, len(windows)))
        if before is not None and before.content_hash != content_hash:
            self._delete(before)

    def touch(self, entry: LedgerEntry, state: FileState) -> None:
        """The same content under the same name has another time now."""
        self.ledger.add(LedgerEntry(entry.path, entry.content_hash, state.size, state.mtime_ns, entry.num_windows))

    def copy(self, entry: LedgerEntry, path: str, state: FileState) -> bool:
        """Put the same content in under another path, from the vectors that are there; False when they are not."""
        ids = [
            Window(entry.path, entry.content_hash, number, entry.num_windows, 0, 0, 0).id
            for number in range(entry.num_windows)
        ]
        found = self.store.fetch(ids, with_frames=True)
        if len(found) != entry.num_windows:
            return False
        points = [WindowPoint(f.window, f.frames_TE) for f in found if f.frames_TE is not None]
        self.add(path, entry.content_hash, state, points)
        return True

    def remove(self, path: str) -> None:
        """Take a video out."""
        entry = self.entries[path]
        self.ledger.remove(path)
        self._delete(entry)

    def tidy(self) -> None:
        """Make store and ledger agree again after a crash: what counts in only one of them is in neither.

        On a server, windows of incomplete videos stay: another process may be at work on them.
        """
        if not self._is_local or self.store.count() == self.ledger.num_windows:
            return
        stored = {(video.path, video.content_hash): video for video in self.store.videos()}
        for entry in list(self.entries.values()):
            video = stored.get((entry.path, entry.content_hash))
            if video is None or video.stored_windows != entry.num_windows:
                logger.warning("%s: %s is not complete any more and is indexed again", self.where, entry.path)
                self.ledger.remove(entry.path)
        for path, digest in stored:
            entry = self.entries.get(path)
            if entry is None or entry.content_hash != digest:
                self.store.delete(WindowFilter(paths=[path], content_hashes=[digest]))

    def holds(self, window: Window) -> bool:
        """Whether a stored window belongs to a video that is in for good."""
        if not self._is_local:
            return True
        entry = self.entries.get(window.path)
        return entry is not None and entry.content_hash == window.content_hash

    def close(self) -> None:
        """Let go of files and lock."""
        self.ledger.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _delete(self, entry: LedgerEntry) -> None:
        self.store.delete(WindowFilter(paths=[entry.path], content_hashes=[entry.content_hash]))

    def _complete_entries(self) -> list[LedgerEntry]:
        """What the ledger would say of a library without one: new, on a server, or with its file lost."""
        complete = {(video.path, video.content_hash): video for video in self.store.videos() if video.complete}
        if not complete:
            return []
        if self._is_local:
            logger.warning("%s: %s is gone and is made again from the vectors", self.where, LEDGER_FILE)
        found: dict[str, LedgerEntry] = {}
        for batch in self.store.scan():
            for window in (stored.window for stored in batch if stored.window.number == 0):
                video = complete.get((window.path, window.content_hash))
                if video is None:
                    continue
                size, mtime_ns = (int(window.extra.get(key, 0)) for key in ("size", "mtime_ns"))
                # two versions of a video: the process that put in the later one was killed before it removed the other
                if window.path not in found or found[window.path].mtime_ns < mtime_ns:
                    found[window.path] = LedgerEntry(
                        window.path, window.content_hash, size, mtime_ns, video.num_windows
                    )
        return list(found.values())


def open_library(into: str | Path, *, wait_seconds: float = 0.0) -> Library:
    """The library in a folder, or on a server (http:// or https://, with `#NAME` for another collection).

    Raises:
        StoreError: no library there, a damaged one, one of another layout, or in use by another process.
        MissingExtraError: a server needs qdrant-client.
    """
    return _open(into, None, None, wait_seconds)


def make_library(
    into: str | Path,
    identity: LibraryIdentity,
    *,
    run: Path,
    embed_dim: int,
    kind: StoreKind | None = None,
    precision: Precision = "float32",
    wait_seconds: float = 0.0,
) -> Library:
    """As `open_library`; makes it when it is not there. One that is there must be of the same model.

    Raises:
        StoreError: as `open_library`; a folder with something else in it; or another model than the library's.
    """
    absolute = str(run.absolute())
    made = StoreIdentity(embed_dim, precision, identity.as_json(absolute))
    library = _open(into, made, kind, wait_seconds)
    try:
        library.check_model(identity.model, run)
        if library.ledger.path is not None:
            library.ledger.set_run(absolute)
    except BaseException:
        library.close()
        raise
    return library


def _open(into: str | Path, identity: StoreIdentity | None, kind: StoreKind | None, wait_seconds: float) -> Library:
    if is_address(into):
        address, _, collection = str(into).partition("#")
        named = {"collection": collection} if collection else {}
        store = open_store(address, identity=identity, kind=kind, wait_seconds=wait_seconds, **named)
        return _library(store, None, str(into))
    folder = Path(into)
    check_folder(folder, may_be_new=identity is not None)
    store = open_store(folder / STORE_FOLDER, identity=identity, kind=kind, wait_seconds=wait_seconds)
    return _library(store, folder / LEDGER_FILE, str(into))


def check_folder(folder: Path, *, may_be_new: bool) -> None:
    """Find out early whether a folder is a library, or may become one.

    Raises:
        StoreError: it is something else, or nothing where there must be something.
    """
    if is_store(folder / STORE_FOLDER):
        return
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; a library is a folder")
    if not may_be_new:
        what = "is no library" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; `side4video index RUN FOOTAGE --into {folder}` makes one")
    ours = {STORE_FOLDER, f"{STORE_FOLDER}.lock", f"{STORE_FOLDER}.partial"}
    if folder.exists() and {entry.name for entry in folder.iterdir()} - ours:
        raise StoreError(f"{folder} is no library and not empty: left as it is; name a new folder")


def check_kept(into: str | Path, model: Mapping[str, Any], run: Path) -> None:
    """Find out early, without taking it, whether a library may be indexed into with this model; a server is not asked.

    Raises:
        StoreError: it is of another model or layout, or the folder is something else.
    """
    if is_address(into):
        return
    folder = Path(into)
    check_folder(folder, may_be_new=True)
    if is_store(folder / STORE_FOLDER):
        _, kept = read_folder(folder / STORE_FOLDER)
        _check_same(cast("dict[str, Any]", kept.model.get("model") or {}), model, run, str(into))


def is_address(into: str | Path) -> bool:
    """Whether a library is on a server."""
    return str(into).startswith(("http://", "https://"))


def _check_same(kept: Mapping[str, Any], model: Mapping[str, Any], run: Path, where: str) -> None:
    if not same_model(kept, model):
        raise StoreError(
            f"{where} was indexed with another model than {run}: {describe_model(kept)}; this is "
            f"{describe_model(model)}. Their vectors cannot be compared: use the run that indexed it, or index into "
            "another folder"
        )


def _library(store: VectorStore, ledger: Path | None, where: str) -> Library:
    opened: Ledger | None = None
    try:
        opened = Ledger(ledger)
        return Library(store, opened, where)
    except BaseException:
        if opened is not None:
            opened.close()
        store.close()
        raise
