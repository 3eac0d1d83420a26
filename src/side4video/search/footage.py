"""Video files on the disk: whether one has changed since it was last seen, and what identifies its content.

Size and time of change are looked at first, since they cost nothing; the content is hashed only when one of them is
not as it was. A video may be a folder of pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from side4video.errors import VideoError

_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class FileState:
    """Size in bytes and time of the last change; of a folder of pictures: of all of them, and of the latest."""

    size: int
    mtime_ns: int


def stored_path(path: Path) -> str:
    """How a library names a video: absolute, with forward slashes, links left as they are."""
    return path.absolute().as_posix()


def file_state(path: Path) -> FileState:
    """What the file system says of a video.

    Raises:
        VideoError: it is not there, or cannot be reached.
    """
    try:
        states = [entry.stat() for entry in _files(path)]
        if not path.is_dir() and not path.is_file():
            raise VideoError(path, "not a regular file")  # reading a pipe would wait for ever
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from None
    return FileState(sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0))


def content_hash(path: Path) -> str:
    """sha256 of the file, or of the names and contents of the pictures in a folder.

    Raises:
        VideoError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for entry in _files(path):
            if path.is_dir():
                digest.update(f"{entry.name}\0{entry.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            with entry.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from None
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(entry for entry in path.iterdir() if entry.is_file())
    else:
        yield path
