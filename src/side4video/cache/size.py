"""What a cache will take, for whoever has to agree to it, and what it has become."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from side4video.cache.key import ClipBytes
from side4video.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class CacheSize:
    """Clips and bytes of a whole cache and of what is still missing, and the room on its disk."""

    path: Path
    clips: int
    missing_clips: int
    clip: ClipBytes
    free_bytes: int
    views: int
    precision: str
    is_exact: bool

    @property
    def missing_bytes(self) -> int:
        """Bytes that are to be written."""
        return self.missing_clips * self.clip.together

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole."""
        return self.clips * self.clip.together

    def describe(self) -> str:
        """One line: how much, of what, and where."""
        kind = "the fixed view of each clip" if self.views == 0 else f"{self.views} augmented views of each clip"
        rest = f"{in_words(self.missing_bytes)} still missing, " if self.missing_clips < self.clips else ""
        exact = "exact" if self.is_exact else "approximate"
        return (
            f"feature cache {self.path}: {in_words(self.total_bytes)} ({self.clips} clips of "
            f"{in_words(self.clip.together)}: {kind}, validation too; tokens in {self.precision}, {exact}); "
            f"{rest}{in_words(self.free_bytes)} free there"
        )

    def check_room(self) -> None:
        """Refuse what cannot fit.

        Raises:
            TrainingError: less room than is missing.
        """
        if self.missing_bytes > self.free_bytes:
            raise TrainingError(
                f"cache.dir: {self.path} needs {in_words(self.missing_bytes)} more, and its disk has "
                f"{in_words(self.free_bytes)} free. Fewer cache.views, cache.precision=int8, fewer side.taps or a "
                "larger disk would help"
            )


class CacheDialog(Protocol):
    """What filling a cache asks and tells; only the first process does."""

    def confirm(self, size: CacheSize) -> None:
        """Agree to write it.

        Raises:
            ConfigError: no.
        """
        ...

    def begin(self, name: str, items: int) -> None:
        """So many items (records times views) of a split are to be made by this process."""
        ...

    def advance(self, items: int) -> None:
        """So many more are there."""
        ...

    def done(self, stored_bytes: int, relative_error: float | None) -> None:
        """All is there; the error of what is not exact."""
        ...


class NoDialog:
    """For programs: whoever names a folder has agreed; nothing is told."""

    def confirm(self, size: CacheSize) -> None:
        pass

    def begin(self, name: str, items: int) -> None:
        pass

    def advance(self, items: int) -> None:
        pass

    def done(self, stored_bytes: int, relative_error: float | None) -> None:
        pass


def free_bytes(path: Path) -> int:
    """Room on the disk that `path` will be on.

    Raises:
        ConfigError: a part of the path is a file.
    """
    there = path.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"cache.dir: {there} is a file; a cache needs a folder")
    return shutil.disk_usage(there).free


def in_words(num_bytes: float) -> str:
    """Bytes in the unit that people use for disks: powers of ten."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"
