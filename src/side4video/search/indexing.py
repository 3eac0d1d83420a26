"""Bring a library up to date with footage: embed what is new or has changed, recognise what was moved or copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from side4video.errors import VideoError
from side4video.search.embedding import VideoEmbedder
from side4video.search.footage import FileState, content_hash, file_state, stored_path
from side4video.search.library import Library

Progress = Callable[[Path, float], None]


@dataclass
class IndexReport:
    """What `index_footage` did, by stored path; `unreadable` holds what could not be read, and why.

    `missing` are videos of the library that are not on the disk any more and were left in.
    """

    embedded: list[str] = field(default_factory=list[str])
    copied: list[str] = field(default_factory=list[str])
    unchanged: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    unreadable: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def index_footage(
    library: Library,
    embedder: VideoEmbedder,
    videos: Sequence[Path],
    *,
    prune: bool = False,
    places: Sequence[Path] = (),
    on_progress: Progress | None = None,
) -> IndexReport:
    """Put these videos into the library, each for good before the next begins.

    A file is looked into only when its size or time is not as it was. Content that the library has under another path
    is not embedded again; when that path is gone from the disk, the video was moved, and leaves its old place. A video
    that cannot be read is reported, and what the library had of it stays. `prune` also removes the videos below
    `places` that are not on the disk any more at all. `on_progress` hears of each video which share of it is done.

    Raises:
        StoreError: the library cannot be written; what was put in before is in.
    """
    report = IndexReport()
    library.tidy()
    for path in videos:
        told = _Telling(path, on_progress)
        try:
            _index_one(library, embedder, path, report, told)
        except VideoError as error:
            report.unreadable.append((str(path), error.reason))
        told(1.0)
    on_disk = {entry.content_hash for stored, entry in library.entries.items() if Path(stored).exists()}
    for stored, entry in list(library.entries.items()):
        if Path(stored).exists():
            continue
        was_moved = entry.content_hash in on_disk
        if was_moved or (prune and any(Path(stored).is_relative_to(place.absolute()) for place in places)):
            library.remove(stored)
            report.removed.append(stored)
        else:
            report.missing.append(stored)
    if report.embedded or report.copied or report.removed:
        library.store.optimise()
    return report


def pending_bytes(library: Library, videos: Sequence[Path]) -> dict[Path, int]:
    """How much of each video there is to do: its size, or nothing where it has not changed; for estimates of time."""
    pending: dict[Path, int] = {}
    for path in videos:
        try:
            state = file_state(path)
        except VideoError:
            continue
        entry = library.entries.get(stored_path(path))
        pending[path] = 0 if entry is not None and entry.state == state else state.size
    return pending


def _index_one(
    library: Library, embedder: VideoEmbedder, path: Path, report: IndexReport, told: Callable[[float], None]
) -> None:
    stored = stored_path(path)
    if not _is_text(stored):
        raise VideoError(path, "its name is not valid text")
    state = file_state(path)
    entry = library.entries.get(stored)
    if entry is not None and entry.state == state:
        report.unchanged.append(stored)
        return
    digest = content_hash(path)
    if entry is not None and entry.content_hash == digest:
        library.touch(entry, state)
        report.unchanged.append(stored)
        return
    if _copy_known(library, stored, digest, state):
        report.copied.append(stored)
        return
    windows = embedder.embed(path, on_progress=told)
    if file_state(path) != state:
        raise VideoError(path, "changed while it was read")
    library.add(stored, digest, state, windows)
    report.embedded.append(stored)


def _copy_known(library: Library, stored: str, digest: str, state: FileState) -> bool:
    """Take the vectors of the same content from another path, if there is one."""
    known = (entry for entry in library.entries.values() if entry.content_hash == digest and entry.path != stored)
    source = next(known, None)
    return source is not None and library.copy(source, stored, state)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Telling:
    path: Path
    listener: Progress | None

    def __call__(self, share: float) -> None:
        if self.listener is not None:
            self.listener(self.path, share)
