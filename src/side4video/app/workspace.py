"""The private folder for uploads: random names, a bound on what it holds, gone when the page stops.

Whoever starts a page also removes the folders of pages that were killed: each page holds a lock beside its files, which
the system lets go of when its process ends, however it ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from threading import Lock

from side4video.app.limits import in_bytes
from side4video.app.refusal import RefusalError
from side4video.errors import ConfigError, StoreError
from side4video.search.lock import FolderLock

_PREFIX = "side4video-app-"
_FILES = "files"
# between making a folder and locking it
_YOUNG_SECONDS = 60.0
# left for everybody else on the disk
_SPARE_BYTES = 200 * 10**6


class Workspace:
    """A folder that only this user can read; `close` removes it. Safe for several threads.

    Raises:
        ConfigError: `parent` is no folder that can be written to.
    """

    def __init__(self, max_bytes: int, parent: Path | None = None) -> None:
        base = Path(tempfile.gettempdir()) if parent is None else parent
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        except OSError as error:
            raise ConfigError(f"{base}: uploads cannot be kept there: {error.strerror or error}") from None
        files = self.folder / _FILES
        self._lock = FolderLock(files).acquire()
        files.mkdir()
        self.max_bytes = max_bytes
        self._sizes: dict[Path, int] = {}
        self._guard = Lock()
        _remove_left_over(base, besides=self.folder)

    @property
    def used_bytes(self) -> int:
        """What all files may take."""
        with self._guard:
            return sum(self._sizes.values())

    def new_file(self, suffix: str = "") -> Path:
        """A path that nobody can guess; the file is not made yet."""
        path = self.folder / _FILES / f"{secrets.token_hex(16)}{suffix}"
        with self._guard:
            self._sizes[path] = 0
        return path

    def reserve(self, path: Path, size: int) -> None:
        """The file may grow to `size`.

        Raises:
            RefusalError: the folder or the disk has no room for it.
        """
        with self._guard:
            more = size - self._sizes.get(path, 0)
            used = sum(self._sizes.values())
            if used + more > self.max_bytes or (more > 0 and shutil.disk_usage(self.folder).free < more + _SPARE_BYTES):
                raise RefusalError(
                    507,
                    f"no room for {in_bytes(size)} on the server now; remove videos that you no longer need, or try "
                    "again later",
                    retry_seconds=60,
                )
            self._sizes[path] = size

    def settle(self, path: Path) -> None:
        """The file is as large as it will get.

        Raises:
            RefusalError: it has been removed meanwhile.
        """
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise RefusalError(410, "this video has been removed") from None
        with self._guard:
            self._sizes[path] = size

    def remove(self, path: Path) -> None:
        """Delete a file; harmless when it is not there."""
        path.unlink(missing_ok=True)
        with self._guard:
            self._sizes.pop(path, None)

    def close(self) -> None:
        """Delete everything; harmless when it is done already."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


def _remove_left_over(base: Path, *, besides: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            state = folder.lstat()
        except OSError:
            continue
        is_ours = not folder.is_symlink() and folder.is_dir() and (os.name == "nt" or state.st_uid == os.getuid())
        if folder == besides or not is_ours or time.time() - state.st_mtime < _YOUNG_SECONDS:
            continue
        try:
            lock = FolderLock(folder / _FILES).acquire()
        except StoreError:
            continue  # a page that is running
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
