"""Asks before a feature cache is written, and shows how it grows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from side4video.cache.size import CacheSize, in_words
from side4video.cli.console import note, progress_bar
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINES_A_SPLIT = 10


class AskInTerminal:
    """A `CacheDialog`: with `yes` nothing is asked; without a terminal to ask in, nothing is written."""

    def __init__(self, *, yes: bool) -> None:
        self.yes = yes
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._items, self._done = "", 0, 0

    def confirm(self, size: CacheSize) -> None:
        """Say what it takes and ask.

        Raises:
            ConfigError: the answer is no, or there is nobody to answer.
        """
        note(size.describe())
        if size.views == 0:
            note("training sees one fixed view of a clip, without augmentation; cache.views=K stores K augmented ones")
        if self.yes:
            return
        needed = in_words(size.missing_bytes)
        if not sys.stdin.isatty():
            raise ConfigError(f"the feature cache takes {needed} in {size.path}; --yes writes it without asking")
        print(f"write {needed}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ConfigError("the feature cache was not written; leave --cache out to train without one")

    def begin(self, name: str, items: int) -> None:
        """Start a bar, or a few lines where there is no terminal."""
        self._close()
        self._name, self._items, self._done = name, items, 0
        self._bar = progress_bar()
        self._bar.start()
        self._task = self._bar.add_task(f"caching {name}", total=items)

    def advance(self, items: int) -> None:
        """Move it."""
        before, self._done = self._done, self._done + items
        if self._bar is None or self._task is None:
            return
        self._bar.update(self._task, advance=items)
        if self._bar.disable and before * LINES_A_SPLIT // self._items < self._done * LINES_A_SPLIT // self._items:
            note(f"caching {self._name}: {self._done} of {self._items} clips")

    def done(self, stored_bytes: int, relative_error: float | None) -> None:
        """Say what it has become."""
        self._close()
        error = "" if relative_error is None else f"; approximate: tokens are {100 * relative_error:.2f} % off (rms)"
        note(f"feature cache: {in_words(stored_bytes)}{error}; the backbone does not run any more")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None
