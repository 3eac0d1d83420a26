"""Reads the annotation files of Something-Something and Kinetics as they are published.

Where a file lies is found by listing folders, once each: these sets have hundreds of thousands of clips, and asking the
file system for every one of them takes minutes. A clip that is not there keeps the name that it should have, so that
it is reported as missing instead of being lost.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from side4video.data.records import RawRecord, has_video_name
from side4video.data.text_files import csv_rows, read_json, read_text, shown, text_lines
from side4video.errors import DataError

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_V1_LINE = re.compile(r"\s*(?P<id>\d+)\s*;\s*(?P<label>\S.*?)\s*")


def read_something(file: Path, root: Path) -> list[RawRecord]:
    """Something-Something: V2's JSON (`id`, and `template` with [something] in brackets), or V1's `id;label` lines.

    A clip is `ID.webm`, another video with that name, or the frame folder `ID`, in `root`.

    Raises: DataError with the place, for anything of another form; the published test file has no templates.
    """
    text = read_text(file)
    labelled = _v2_labels(file, text) if file.suffix.lower() == ".json" else _v1_labels(file, text)
    folder = _Folder(root)
    return [_located([folder], [clip_id], f"{clip_id}.webm", root, label, where) for clip_id, label, where in labelled]


def read_kinetics(file: Path, root: Path) -> list[RawRecord]:
    """Kinetics: CSV with `label,youtube_id,time_start,time_end,split`.

    A clip is `ID_000010_000020` or `ID`, a video or a frame folder, in `root`, or below it in a folder of its split, of
    its label (spaces or underscores), or both. Files are taken for clips that were cut already, as published tools
    cut them: times of the CSV are used for the name only.

    Raises: DataError with the line, for missing columns, rows of another length, or times that are not numbers.
    """
    text = read_text(file)
    rows = csv_rows(file, text, ",")
    header = [cell.strip().lower() for cell in next(rows)[1]]
    missing = [name for name in KINETICS_COLUMNS if name not in header]
    if missing:
        raise DataError(
            f"{shown(file)}, line 1: lacks {', '.join(missing)} of {','.join(KINETICS_COLUMNS)},split; got {header}"
        )
    folders: dict[str, _Folder] = {}
    records: list[RawRecord] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{shown(file)}, line {line}: {len(cells)} columns where the header has {len(header)}; got {cells}"
            )
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        try:
            start, end = (round(float(row[name])) for name in ("time_start", "time_end"))
        except (ValueError, OverflowError):
            raise DataError(
                f"{shown(file)}, line {line}: time_start and time_end must be seconds; "
                f"got {row['time_start']!r} and {row['time_end']!r}"
            ) from None
        if not row["label"] or not row["youtube_id"]:
            raise DataError(f"{shown(file)}, line {line}: label and youtube_id must not be empty; got {cells}")
        cut = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        places = [folders.setdefault(place, _Folder(root / place)) for place in _kinetics_places(row)]
        records.append(_located(places, [cut, row["youtube_id"]], f"{cut}.mp4", root, row["label"], f"line {line}"))
    return records


def _kinetics_places(row: dict[str, str]) -> list[str]:
    labels = list(dict.fromkeys([row["label"], row["label"].replace(" ", "_")]))
    split = row.get("split", "")
    splits = ["", *([split] if split else [])]
    return [os.path.join(a, b) if b else a for a in splits for b in ["", *labels]]  # noqa: PTH118


class _Folder:
    """The clips in a folder by name without extension, listed when first asked for; empty when there is no folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: dict[str, tuple[str, bool]] | None = None

    def find(self, stem: str) -> tuple[str, bool] | None:
        """(path, is a frame folder) of the clip with this name."""
        if self._names is None:
            self._names = dict(self._listing())
        found = self._names.get(stem)
        return None if found is None else (str(self.path / found[0]), found[1])

    def _listing(self) -> Iterable[tuple[str, tuple[str, bool]]]:
        try:
            with os.scandir(self.path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir():
                        yield entry.name, (entry.name, True)
                    elif has_video_name(entry.name):
                        yield os.path.splitext(entry.name)[0], (entry.name, False)  # noqa: PTH122
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # a label that no folder can be called by
                return
            raise DataError(f"{shown(self.path)}: cannot be read: {error.strerror}") from error


def _located(folders: list[_Folder], stems: list[str], otherwise: str, root: Path, label: str, where: str) -> RawRecord:
    for stem in stems:
        for folder in folders:
            found = folder.find(stem)
            if found is not None:
                return RawRecord(found[0], label, where, is_folder=found[1])
    return RawRecord(str(root / otherwise), label, where)


def _v2_labels(file: Path, text: str) -> list[tuple[str, str, str]]:
    value = read_json(file, text)
    if not isinstance(value, list):
        raise DataError(
            f"{shown(file)}: must be a list of objects with id and template, as Something-Something publishes it"
        )
    labelled: list[tuple[str, str, str]] = []
    for number, item in enumerate(cast("list[object]", value), start=1):
        entry = cast("dict[str, object]", item) if isinstance(item, dict) else {}
        clip_id, template = entry.get("id"), entry.get("template")
        if not isinstance(clip_id, str | int) or not isinstance(template, str) or not template.strip():
            raise DataError(
                f"{shown(file)}, entry {number}: needs `id` and `template` (the published test file has no templates); "
                f"got {str(item)[:120]}"
            )
        labelled.append((str(clip_id), template.replace("[", "").replace("]", "").strip(), f"entry {number}"))
    return labelled


def _v1_labels(file: Path, text: str) -> list[tuple[str, str, str]]:
    labelled: list[tuple[str, str, str]] = []
    for line, content in text_lines(text):
        match = _V1_LINE.fullmatch(content)
        if match is None:
            raise DataError(f"{shown(file)}, line {line}: must be `id;label`; got {content[:120]!r}")
        labelled.append((match["id"], match["label"], f"line {line}"))
    return labelled


def is_something_line(line: str) -> bool:
    """Whether a line looks like one of Something-Something V1's."""
    return _V1_LINE.fullmatch(line) is not None
