"""Reads list files: CSV and TSV tables, JSONL, and the plain lists of the released code."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from side4video.data.records import RawRecord, has_video_name
from side4video.data.text_files import csv_rows, read_json, read_text, shown, text_lines
from side4video.errors import DataError

REQUIRED = ("path", "label")
OPTIONAL = ("start", "end", "num_frames")
_COLUMNS = "path,label[,start,end][,num_frames]"
_FRAMES_AND_LABEL = re.compile(r"(?P<path>\S.*?)\s+(?P<frames>\d{1,9})\s+(?P<label>\d{1,6})\s*", re.DOTALL)
_LABEL = re.compile(r"(?P<path>\S.*?)\s+(?P<label>\d{1,6})\s*", re.DOTALL)
_logger = logging.getLogger(__name__)


def read_table(file: Path) -> list[RawRecord]:
    """CSV or TSV with a header: `path,label`, and if wanted `start,end` in seconds and `num_frames`.

    Comma, semicolon and tab separate; the header decides. Other columns are ignored with a warning.

    Raises: DataError with the line, for a missing header or column, a row of another length, or a bad value.
    """
    text = read_text(file)
    first = next(text_lines(text))[1]
    delimiter = next((mark for mark in ("\t", ",", ";") if {*REQUIRED} <= _header_set(first, mark)), None)
    if delimiter is None:
        raise DataError(
            f"{shown(file)}, line 1: the first line must be a header with the columns {_COLUMNS}; got {first.strip()!r}"
        )
    rows = csv_rows(file, text, delimiter)
    header = [cell.strip().lower() for cell in next(rows)[1]]
    if len(set(header)) != len(header):
        raise DataError(f"{shown(file)}, line 1: a column appears twice in the header {header}")
    _warn_of_unknown(file, set(header))
    records: list[RawRecord] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{shown(file)}, line {line}: {len(cells)} columns where the header has {len(header)} "
                f"({','.join(header)}); got {cells}"
            )
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        records.append(_record(file, line, {name: value for name, value in values.items() if value}))
    return records


def read_jsonl(file: Path) -> list[RawRecord]:
    """One JSON object a line, with the keys of `read_table`'s columns.

    Raises: DataError with the line, for anything but an object, a missing key, or a bad value.
    """
    records: list[RawRecord] = []
    unknown: set[str] = set()
    for line, text in text_lines(read_text(file)):
        value = read_json(file, text, line)
        if not isinstance(value, dict):
            raise DataError(
                f"{shown(file)}, line {line}: must be an object with the keys {_COLUMNS}; got {text[:80]!r}"
            )
        entry = {str(key): item for key, item in cast("dict[str, object]", value).items() if item is not None}
        unknown |= set(entry)
        if isinstance(entry.get("label"), int) and not isinstance(entry["label"], bool):
            entry["label"] = str(entry["label"])
        records.append(_record(file, line, entry))
    _warn_of_unknown(file, unknown)
    return records


def read_list(file: Path) -> list[RawRecord]:
    """Lines of `folder frames label` or `file.mp4 label`, as the released code has them; the label is a number.

    Names may contain spaces. Two numbers at the end are a frame count and a label.

    Raises: DataError with the line, for a line of another form.
    """
    records: list[RawRecord] = []
    for line, text in text_lines(read_text(file)):
        match = _FRAMES_AND_LABEL.fullmatch(text) or _LABEL.fullmatch(text)
        if match is None:
            raise DataError(
                f"{shown(file)}, line {line}: must be `folder frames label` or `file.mp4 label`, the label a number; "
                f"got {text[:120]!r}"
            )
        groups = match.groupdict()
        frames = None if groups.get("frames") is None else int(groups["frames"])
        if frames == 0:
            raise DataError(f"{shown(file)}, line {line}: the frame count must be at least 1; got 0")
        records.append(
            RawRecord(
                groups["path"],
                int(groups["label"]),
                f"line {line}",
                num_frames=frames,
                is_folder=not has_video_name(groups["path"]),
            )
        )
    return records


def is_list_line(line: str) -> bool:
    """Whether a line looks like one of the released code's lists."""
    return _LABEL.fullmatch(line) is not None


def has_columns(line: str, *names: str) -> bool:
    """Whether a line is a header with these columns, whatever separates them."""
    return any({*names} <= _header_set(line, mark) for mark in ("\t", ",", ";"))


def _header_set(line: str, mark: str) -> set[str]:
    return {cell.strip().strip('"').lower() for cell in line.split(mark)}


def _warn_of_unknown(file: Path, names: set[str]) -> None:
    unknown = sorted(names - {*REQUIRED, *OPTIONAL})
    if unknown:
        _logger.warning("%s: ignored columns %s; known are %s", file, ", ".join(unknown), _COLUMNS)


def _record(file: Path, line: int, values: dict[str, object]) -> RawRecord:
    for name in REQUIRED:
        if not isinstance(values.get(name), str) or not values[name]:
            raise DataError(
                f"{shown(file)}, line {line}: {name} must be a text that is not empty; got {values.get(name)!r}"
            )
    path = str(values["path"])
    start, end = (_number(file, line, values, name, _seconds) for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{shown(file)}, line {line}: end must come after start; got start={start}, end={end}")
    frames = _number(file, line, values, "num_frames", _count)
    return RawRecord(
        path,
        str(values["label"]),
        f"line {line}",
        start_seconds=start,
        end_seconds=end,
        num_frames=None if frames is None else int(frames),
        is_folder=not has_video_name(path),
    )


def _number(file: Path, line: int, values: dict[str, object], name: str, read: Callable[[str], float]) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        return read(str(value))
    except (ValueError, OverflowError):
        allowed = "a whole number from 1" if name == "num_frames" else "seconds from 0"
        raise DataError(f"{shown(file)}, line {line}: {name} must be {allowed}; got {value!r}") from None


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value


def _count(text: str) -> float:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return float(value)
