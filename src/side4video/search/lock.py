"""One process at a time in a folder, and a message that says which one is there.

The lock is a file beside the folder, so that a folder of somebody else stays untouched. The system lets go of it when
its process ends, however it ends; worker processes do not inherit it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

from side4video.errors import StoreError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_SECONDS = 0.1
_BYTE = 1 << 30  # the locked byte lies far behind the text, which others must be able to read
_held: dict[Path, str] = {}  # POSIX locks do not keep a process from itself


class FolderLock:
    """Holds `<folder>.lock` from `acquire` to `release`."""

    def __init__(self, folder: Path) -> None:
        folder = Path(folder).absolute()
        self.folder = folder
        self.path = folder.with_name(f"{folder.name}.lock")
        self._file: IO[bytes] | None = None

    def acquire(self, wait_seconds: float = 0.0) -> FolderLock:
        """Take the lock, waiting up to `wait_seconds` for another process to let go.

        Raises:
            StoreError: somebody else has it; the message says who, since when, and what to do.
        """
        deadline = time.monotonic() + wait_seconds
        while not self._try():
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"{self.folder} is in use by {self._owner()}; one process at a time: wait for it, or stop it"
                )
            time.sleep(_POLL_SECONDS)
        return self

    def release(self) -> None:
        """Let go; harmless when not held."""
        if self._file is None:
            return
        # the file stays: removing it would let two processes hold two files of the same name
        self._file.truncate(0)
        self._file.close()
        self._file = None
        _held.pop(self.path, None)

    def _try(self) -> bool:
        if self.path in _held:
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("r+b" if self.path.exists() else "w+b")
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be made: {error.strerror or error}") from None
        if not _lock_byte(file):
            file.close()
            return False
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        owner = {"pid": os.getpid(), "command": command, "since": since}
        file.truncate(0)
        file.write(json.dumps(owner).encode())
        file.flush()
        self._file = file
        _held[self.path] = since
        return True

    def _owner(self) -> str:
        if self.path in _held:
            return f"this very process ({os.getpid()}) since {_held[self.path]}"
        try:
            owner = cast("dict[str, Any]", json.loads(self.path.read_bytes()))
            return f"process {owner['pid']} (`{owner['command']}`) since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def _lock_byte(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            file.seek(_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            # a record lock, not flock: forked workers would keep an flock alive after their parent was killed
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _BYTE)
    except OSError:
        return False
    return True
