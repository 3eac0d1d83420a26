"""Our exceptions. Whatever a user can cause is a `Side4VideoError`; the command line makes exit code 2 of it.

Side4VideoError
├── InputError (also ValueError)      a bad value: what, what came, what is allowed
│   ├── ConfigError                   a setting: unknown, of the wrong type, or not allowed with another
│   ├── BackboneError                 an image model that is unknown, unreachable or has no patch tokens
│   ├── DataError                     a data set: missing, empty, malformed, with labels that do not fit
│   │   └── VideoError                one video that cannot be read; `.path` and `.reason` say which and why
│   ├── CheckpointError               weights or a run folder that do not fit or are damaged
│   └── StoreError                    a vector store: missing, foreign, damaged, in use or out of reach
├── MissingExtraError (also ImportError)   an optional dependency; the message names the extra
└── TrainingError (also RuntimeError)      training had to stop: NaN loss, too many broken videos
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class Side4VideoError(Exception):
    """Base of every error that the package raises on purpose.

    What cannot be printed (bytes that are no text, marks of direction, a terminal's commands) is escaped in the
    message: parts of it come from names and files of others. Line ends stay.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(_printable(part) if isinstance(part, str) else part for part in arguments))


class InputError(Side4VideoError, ValueError):
    """A value that came from the user and is not allowed."""


class ConfigError(InputError):
    """A setting that is unknown, of the wrong type, or not allowed."""


class BackboneError(InputError):
    """An image model that is unknown, cannot be had, or cannot be used."""


class DataError(InputError):
    """A data set that is missing, empty or malformed."""


class VideoError(DataError):
    """One video that cannot be read.

    `path` is the video as the user named it, `reason` a short lower-case clause such as ``"no video stream"``.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        name = str(path) if str(path).isprintable() else ascii(str(path))  # a line end must not look like a message's
        super().__init__(f"{name}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        # exceptions cross process borders (data workers); the default rebuilds from the one formatted argument
        return type(self), (self.path, self.reason)


class CheckpointError(InputError):
    """Weights or a run folder that do not fit this model or are damaged."""


class StoreError(InputError):
    """A vector store that is missing, foreign, damaged, in use by another process or out of reach."""


class MissingExtraError(Side4VideoError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; it comes with: pip install 'side4video[{extra}]'")
        self.package = package
        self.extra = extra


class TrainingError(Side4VideoError, RuntimeError):
    """Training had to stop; what was kept and how to go on is in the message."""


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def nearest_names(name: str, known: Iterable[str], limit: int = 3) -> str:
    """A clause that suggests the known names nearest to `name`, or an empty string when none is near."""
    close = get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
