"""Videos with captions, for text-video retrieval: read from a table of one's own or from a published data set.

A table is CSV or JSONL with `video,caption`, and if wanted `start,end` in seconds; lines that name the same part of the
same video are its several captions. Reading looks at names only, never into videos.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from side4video.data.caption_sets import READERS, RawCaptions
from side4video.data.text_files import csv_rows, read_json, read_text, shown, text_lines
from side4video.data.video_index import VideoIndex
from side4video.errors import ConfigError, DataError

CaptionFormat = Literal["auto", "table", "jsonl", "msrvtt", "msvd", "vatex", "didemo", "lsmdc", "activitynet"]
Missing = Literal["error", "leave_out"]
_COLUMNS = "video,caption[,start,end]"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionRecord:
    """One video, or the part of it between two times, and its captions, at least one.

    `path` is a video file or a folder of frames; `name` is what its data set calls it.
    """

    path: str
    captions: tuple[str, ...]
    name: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    frame_pattern: str | None = None


@dataclass(frozen=True)
class CaptionSet:
    """The videos of one split. `missing` names those that were left out because they are not there."""

    records: tuple[CaptionRecord, ...]
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_captions(self) -> int:
        """Captions of all videos together."""
        return sum(len(record.captions) for record in self.records)

    def pairs(self) -> list[tuple[int, int]]:
        """(record, caption) of every caption: what an epoch of training goes through, and what evaluation asks."""
        return [(r, c) for r, record in enumerate(self.records) for c in range(len(record.captions))]

    def fingerprint(self) -> str:
        """A hash of all records; a data set that was moved as a whole keeps it."""
        base = os.path.dirname(os.path.commonprefix([record.path for record in self.records]))  # noqa: PTH120, RUF071
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(repr((record.path[len(base) :], *astuple(record)[1:])).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for a report: how many videos and captions, and how many are missing."""
        left_out = f"; {len(self.missing)} videos are missing and left out" if self.missing else ""
        return f"{len(self.records)} videos, {self.num_captions} captions{left_out}"


def read_captions(
    source: str | Path,
    *,
    format: CaptionFormat = "auto",
    split: str = "train",
    root: str | Path | None = None,
    only: str | Path | None = None,
    missing: Missing = "error",
    frame_pattern: str | None = None,
) -> CaptionSet:
    """The captioned videos of a table, or of a split of a published data set.

    `format` is `table` (CSV, TSV), `jsonl`, or the name of a data set, whose `source` is the folder of its published
    caption files (VATEX: or the JSON file). `auto` goes by the file's ending. `root` is where videos are: the start of
    relative paths in a table, or the folder, of any depth, that a data set's videos are looked for in (default: the
    source's folder). `only` is a file with one video name a line, to choose from a data set. `missing` says what to do
    about videos that are not there: `error`, or `leave_out`, which logs and lists them.

    Raises:
        DataError: missing, empty or malformed files (with the line), a caption without a word, missing videos.
        ConfigError: an unknown format or value of `missing`.
    """
    path = Path(source)
    for name, value, allowed in (("format", format, CaptionFormat), ("missing", missing, Missing)):
        if value not in get_args(allowed):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(allowed))}; got {value!r}")
    if not os.path.exists(path):  # noqa: PTH110 - unlike Path.exists, no error for a name that the system refuses
        raise DataError(f"{shown(path)}: no such file or folder")
    kind = _detect(path) if format == "auto" else format
    base = Path(root) if root is not None else (path if path.is_dir() else path.parent)
    if kind in ("table", "jsonl"):
        found = _from_rows(path, base, _table_rows(path) if kind == "table" else _jsonl_rows(path))
    else:
        found = _from_data_set(READERS[kind](path, split), base)
    if only is not None:
        found = _chosen(found, Path(only))
    records = [_with_pattern(record, frame_pattern) for record in found if record.path]
    absent = tuple(record.name for record in found if not record.path)
    if absent and (missing == "error" or not records):
        raise DataError(
            f"{shown(path)}: {len(absent)} of {len(found)} videos are not in {shown(base)}, such as "
            f"{', '.join(absent[:5])}; leave them out with missing=leave_out"
        )
    if absent:
        names = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        _logger.warning("%s: left out %d of %d videos, not in %s: %s", path, len(absent), len(found), base, names)
    return CaptionSet(tuple(records), absent)


def split_captions(captions: CaptionSet, fraction: float, seed: int) -> tuple[CaptionSet, CaptionSet]:
    """Videos for training and for validation: a random `fraction`, at least one video, is held out.

    Parts of one file go the same way, so that nothing of a held-out video is trained on. What is missing is so in both.

    Raises:
        DataError: fewer than two files.
    """
    paths = list(dict.fromkeys(record.path for record in captions.records))
    if len(paths) < 2:
        raise DataError(f"need at least two videos to hold one out for validation; got {len(paths)}")
    count = min(len(paths) - 1, max(1, round(len(paths) * fraction)))
    held = set(np.random.default_rng([seed, len(paths)]).permutation(np.array(paths))[:count].tolist())
    return (
        CaptionSet(tuple(record for record in captions.records if record.path not in held), captions.missing),
        CaptionSet(tuple(record for record in captions.records if record.path in held), captions.missing),
    )


def _detect(path: Path) -> CaptionFormat:
    suffix = path.suffix.lower()
    if not path.is_dir() and suffix in (".csv", ".tsv"):
        return "table"
    if not path.is_dir() and suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    raise DataError(
        f"{shown(path)}: captions are a CSV or JSONL file with {_COLUMNS}, or a data set named by format="
        f"({', '.join(READERS)})"
    )


def _table_rows(file: Path) -> list[tuple[int, dict[str, object]]]:
    text = read_text(file)
    first = next(text_lines(text))[1]
    delimiter = next((mark for mark in ("\t", ",", ";") if {"video", "caption"} <= _header_set(first, mark)), None)
    if delimiter is None:
        raise DataError(f"{shown(file)}, line 1: must be a header with the columns {_COLUMNS}; got {first.strip()!r}")
    rows = csv_rows(file, text, delimiter)
    header = [cell.strip().lower() for cell in next(rows)[1]]
    found: list[tuple[int, dict[str, object]]] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{shown(file)}, line {line}: {len(cells)} columns where the header has {len(header)} "
                f"({','.join(header)}); a caption with a {delimiter!r} in it must be quoted"
            )
        found.append((line, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
    return found


def _header_set(line: str, mark: str) -> set[str]:
    try:
        return {cell.strip().lower() for cell in next(csv.reader([line], delimiter=mark), ())}
    except csv.Error:  # the line as a whole is told of as no header
        return set()


def _jsonl_rows(file: Path) -> list[tuple[int, dict[str, object]]]:
    rows: list[tuple[int, dict[str, object]]] = []
    for line, text in text_lines(read_text(file)):
        value = read_json(file, text, line)
        if not isinstance(value, dict):
            raise DataError(
                f"{shown(file)}, line {line}: must be an object with the keys {_COLUMNS}; got {text[:80]!r}"
            )
        rows.append((line, {str(k): item for k, item in cast("dict[str, object]", value).items()}))
    return rows


def _from_rows(file: Path, base: Path, rows: list[tuple[int, dict[str, object]]]) -> list[CaptionRecord]:
    """One record for every part of a video, in order of first appearance; `path` is empty where there is no video."""
    captions: dict[tuple[str, float | None, float | None], list[str]] = {}
    for line, row in rows:
        for name in ("video", "caption"):
            if not isinstance(row.get(name), str) or not str(row[name]).strip():
                raise DataError(
                    f"{shown(file)}, line {line}: {name} must be a text that is not empty; got {row.get(name)!r}"
                )
        start, end = (_seconds(file, line, name, row.get(name)) for name in ("start", "end"))
        if end is not None and end <= (start or 0.0):
            raise DataError(f"{shown(file)}, line {line}: end must come after start; got start={start}, end={end}")
        # ./a.mp4 and a.mp4 are one video
        video = os.path.normpath(str(row["video"]))
        captions.setdefault((video, start, end), []).append(str(row["caption"]).strip())
    if not captions:
        raise DataError(f"{shown(file)} lists no captions")
    there: dict[str, bool] = {}
    records: list[CaptionRecord] = []
    for (video, start, end), texts in captions.items():
        full = str(base / video)
        if video not in there:
            there[video] = os.path.exists(full)  # noqa: PTH110
        records.append(CaptionRecord(full if there[video] else "", tuple(texts), video, start, end))
    return records


def _from_data_set(raw: list[RawCaptions], base: Path) -> list[CaptionRecord]:
    index = VideoIndex(base)
    return [
        CaptionRecord(index.find(item.names) or "", item.captions, item.names[0], item.start_seconds, item.end_seconds)
        for item in raw
    ]


def _chosen(found: list[CaptionRecord], file: Path) -> list[CaptionRecord]:
    wanted = [line.strip() for _, line in text_lines(read_text(file))]
    unknown = sorted(set(wanted) - {record.name for record in found})
    if unknown:
        raise DataError(f"{shown(file)}: {len(unknown)} videos have no captions, such as {', '.join(unknown[:5])}")
    names = set(wanted)
    return [record for record in found if record.name in names]


def _with_pattern(record: CaptionRecord, pattern: str | None) -> CaptionRecord:
    if pattern is None or not os.path.isdir(record.path):  # noqa: PTH112
        return record
    return CaptionRecord(
        record.path, record.captions, record.name, record.start_seconds, record.end_seconds, frame_pattern=pattern
    )


def _seconds(file: Path, line: int, name: str, value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise DataError(f"{shown(file)}, line {line}: {name} must be seconds from 0; got {value!r}")
    return seconds
