"""Reads the small text files that describe data sets, with errors that name file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from side4video.errors import DataError


def shown(path: object) -> str:
    """A path for a message: quoted, with line breaks and undecodable bytes escaped."""
    return ascii(str(path)) if not str(path).isprintable() else repr(str(path))


def read_text(path: Path) -> str:
    """A UTF-8 file (with or without byte order mark).

    Raises: DataError when it is missing, unreadable, not text, or blank.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: no such file") from None
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)}: not a UTF-8 text file (byte {error.start})") from error
    if "\0" in text:
        raise DataError(f"{shown(path)}: not a text file (it contains zero bytes)")
    if not text.strip():
        raise DataError(f"{shown(path)}: the file is empty")
    return text


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of all lines that are not blank. Only line feeds end a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the row's last line, cells) of all rows that are not blank; cells may be quoted and span lines.

    Raises: DataError when the text is not a table.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells and any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{shown(path)}, line {reader.line_num}: not a valid table row: {error}") from error


def read_json(path: Path, text: str, line: int | None = None) -> object:
    """Parse JSON, the whole file or one line of it.

    Raises: DataError naming the line where it goes wrong.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{shown(path)}, line {line or error.lineno}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{shown(path)}, line {line or 1}: not valid JSON: {error}") from error
