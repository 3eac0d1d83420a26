"""Reads a pickle that holds plain containers, strings and numbers, and nothing that could run.

Some data sets publish their captions as a pickle. A pickle may name any function to call while it is read; here naming
anything at all is refused, so that only what the format itself can spell is built: None, booleans, numbers, strings,
bytes, lists, tuples, dicts and sets.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from side4video.data.text_files import shown
from side4video.errors import DataError

# what a damaged or hostile stream raises while it is read
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)
# pickles of Python 2 hold text as bytes: UTF-8, or for old files Latin-1, which reads anything
_ENCODINGS = ("utf-8", "latin-1")


def read_plain_pickle(path: Path) -> object:
    """The containers and strings of a pickle, of any protocol, written by Python 2 or 3.

    Raises: DataError when it is missing, damaged, or asks for anything but plain values.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: no such file") from None
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    _check_memo(path, content)
    for encoding in _ENCODINGS:
        try:
            return _PlainUnpickler(io.BytesIO(content), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except _Refused as error:
            raise DataError(
                f"{shown(path)}: refused, it holds more than plain containers and strings: {error}"
            ) from None
        except _DAMAGE as error:
            raise DataError(f"{shown(path)}: not a readable pickle: {error}") from error
    raise DataError(f"{shown(path)}: not a readable pickle: its text is in an unknown encoding")


def _check_memo(path: Path, content: bytes) -> None:
    """A value may be numbered to be used again; a number beyond the file's size would only fill the memory."""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
                raise DataError(f"{shown(path)}: not a readable pickle: it numbers a value {argument}")
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{shown(path)}: not a readable pickle: {error}") from error


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """The stream named something to import or to look up."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        """Nothing has a name here."""
        raise _Refused(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Nothing lies outside the stream."""
        raise _Refused(f"it refers to an outside object {pid!r}")
