"""A data set's list of clips: read from whatever form it has, checked, and split.

Forms: a folder of class folders, CSV/TSV tables, JSONL, the released code's lists, Something-Something's JSON and
Kinetics' CSV. Reading looks at names only, never into videos.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from side4video.data.class_names import read_class_names
from side4video.data.folder_reader import read_folder
from side4video.data.list_readers import has_columns, is_list_line, read_jsonl, read_list, read_table
from side4video.data.published_readers import is_something_line, read_kinetics, read_something
from side4video.data.records import ClipRecord, Manifest, RawRecord, has_video_name
from side4video.data.text_files import read_text, shown, text_lines
from side4video.errors import ConfigError, DataError, InputError, nearest_names

__all__ = ["ClipRecord", "Manifest", "ManifestFormat", "drop_short", "read_manifest", "split_manifest"]

ManifestFormat = Literal["auto", "folder", "table", "jsonl", "list", "something", "kinetics"]
_logger = logging.getLogger(__name__)


def read_manifest(
    source: str | Path,
    *,
    format: ManifestFormat = "auto",
    root: str | Path | None = None,
    frame_pattern: str | None = None,
    classes: str | Path | None = None,
    class_names: Sequence[str] | None = None,
) -> Manifest:
    """The clips of a folder of class folders or of a list file.

    `root` is where relative paths start (default: the list file's folder). `frame_pattern` names the pictures of frame
    folders. `classes` is a file that names the classes in order. `class_names` are those of the training set: reading a
    validation or test set with them, a class that training lacks is an error, and one class alone is not.

    Without either, names come from the labels: alphabetical, or by number when all are numbers. Lists of the released
    code number their classes; without a class file a class is called by its number.

    Raises:
        DataError: missing, empty or malformed (with the line), a clip listed twice, one class only, unknown class.
        ConfigError: an unknown format, or a frame pattern without a number.
    """
    path = Path(source)
    if format not in get_args(ManifestFormat):
        raise ConfigError(f"format must be one of {', '.join(get_args(ManifestFormat))}; got {format!r}")
    _check_pattern(frame_pattern)
    if not os.path.exists(path):  # noqa: PTH110 - unlike Path.exists, no error for a name that the system refuses
        raise DataError(f"{shown(path)}: no such file or folder")
    kind = _detect(path) if format == "auto" else format
    # the clips of a folder are found, not listed: their paths already start where the folder's does
    base = Path() if kind == "folder" else path.parent if root is None else Path(root)
    raw = _read(kind, path, base, empty_classes=class_names is not None)
    if not raw:
        raise DataError(f"{shown(path)} lists no clips")
    _check_duplicates(path, raw, base)
    names, labels = _resolve_labels(path, raw, classes, class_names)
    if class_names is None and len(set(labels)) < 2:
        raise DataError(f"{shown(path)} has one class only, {names[labels[0]]!r}: a classifier needs at least two")
    records = tuple(_record(item, label, base, frame_pattern) for item, label in zip(raw, labels, strict=True))
    return Manifest(records, names)


def drop_short(manifest: Manifest, min_frames: int) -> Manifest:
    """Without the clips that their list gives fewer than `min_frames` frames; how many is logged.

    The released code drops videos of fewer than 8 frames in training and validation, and none in testing. Clips
    without a listed number of frames stay.

    Raises: DataError when nothing is left.
    """
    kept = tuple(r for r in manifest.records if r.num_frames is None or r.num_frames >= min_frames)
    dropped = len(manifest) - len(kept)
    if dropped:
        _logger.warning("dropped %d of %d clips that have fewer than %d frames", dropped, len(manifest), min_frames)
    if not kept:
        raise DataError(f"all {dropped} clips have fewer than {min_frames} frames")
    return replace(manifest, records=kept)


def split_manifest(manifest: Manifest, fraction: float, seed: int) -> tuple[Manifest, Manifest]:
    """(training, validation): a share of each class held out, at least one clip where the class has two.

    Clips cut from one video stay on one side. The choice depends on the records and the seed only.

    Raises: InputError for a fraction that is not between 0 and 1, DataError when no class has clips to spare.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the share to hold out must be between 0 and 1; got {fraction}")
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(manifest.records):
        groups.setdefault(os.path.normpath(record.path), []).append(index)
    total = Counter(record.label for record in manifest.records)
    by_class: dict[int, list[list[int]]] = {}
    for members in groups.values():
        # a video with several classes counts for the rarest of them
        rarest = min({manifest.records[index].label for index in members}, key=lambda label: (total[label], label))
        by_class.setdefault(rarest, []).append(members)
    generator = torch.Generator().manual_seed(seed)
    held_out: set[int] = set()
    left = Counter(total)
    for label in sorted(by_class):
        videos = by_class[label]
        wanted = min(max(1, round(fraction * len(videos))), len(videos) - 1)
        for position in torch.randperm(len(videos), generator=generator).tolist()[:wanted]:
            taken = Counter(manifest.records[index].label for index in videos[position])
            if all(left[other] > count for other, count in taken.items()):  # never the last of a class
                left -= taken
                held_out.update(videos[position])
    if not held_out:
        raise DataError("no class has two videos, so none can be held out for validation: name a validation set")
    alone = sorted(
        {manifest.class_names[r.label] for i, r in enumerate(manifest.records) if i not in held_out}
        - {manifest.class_names[manifest.records[i].label] for i in held_out}
    )
    if alone:
        _logger.warning(
            "too few clips to hold out any for validation in %d classes: %s", len(alone), ", ".join(alone[:5])
        )
    train = tuple(r for i, r in enumerate(manifest.records) if i not in held_out)
    val = tuple(r for i, r in enumerate(manifest.records) if i in held_out)
    return replace(manifest, records=train), replace(manifest, records=val)


def _detect(path: Path) -> ManifestFormat:
    if path.is_dir():
        return "folder"
    if has_video_name(path.name):
        raise DataError(f"{shown(path)} is a video; a data set is a folder of class folders, or a list file")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix == ".json":
        return "something"
    first = next(text_lines(read_text(path)))[1]
    if has_columns(first, "label", "youtube_id"):
        return "kinetics"
    if has_columns(first, "path", "label"):
        return "table"
    if is_something_line(first):
        return "something"
    # a file called table that looks like a list has a space in its first line and no separator
    is_table = suffix in (".csv", ".tsv") and ("," in first or "\t" in first or not is_list_line(first))
    return "table" if is_table else "list"


def _read(kind: ManifestFormat, path: Path, base: Path, *, empty_classes: bool) -> list[RawRecord]:
    if (kind == "folder") != path.is_dir():
        raise DataError(f"format={kind} reads {'a folder' if kind == 'folder' else 'a file'}; {shown(path)} is none")
    match kind:
        case "folder":
            return read_folder(path, empty_classes=empty_classes)
        case "jsonl":
            return read_jsonl(path)
        case "list":
            return read_list(path)
        case "something":
            return read_something(path, base)
        case "kinetics":
            return read_kinetics(path, base)
        case _:
            return read_table(path)


def _check_pattern(pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        fits = pattern.format(1) != pattern.format(2)
    except (IndexError, KeyError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise ConfigError(f"frame_pattern must hold the frame's number, such as 'img_{{:05d}}.jpg'; got {pattern!r}")


def _check_duplicates(path: Path, raw: list[RawRecord], base: Path) -> None:
    seen: dict[tuple[str, float | None, float | None], str] = {}
    for item in raw:
        key = (os.path.normpath(base / item.path), item.start_seconds, item.end_seconds)
        if key in seen:
            raise DataError(f"{shown(path)}, {item.where}: clip {shown(item.path)} is listed already ({seen[key]})")
        seen[key] = item.where


def _resolve_labels(
    path: Path, raw: list[RawRecord], classes: str | Path | None, class_names: Sequence[str] | None
) -> tuple[tuple[str, ...], list[int]]:
    if class_names is not None:
        names, owner = tuple(class_names), "the training set"
    elif classes is not None:
        names, owner = read_class_names(classes), shown(classes)
    else:
        names, owner = _derived_names([item.label for item in raw]), "the data set"
    numbers = {name: number for number, name in enumerate(names)}
    by_number = not any(map(_is_number, names))
    labels = [_label_number(item.label, numbers, by_number=by_number) for item in raw]
    unknown = {str(item.label): item.where for item, label in zip(raw, labels, strict=True) if label is None}
    if unknown:
        name, where = next(iter(unknown.items()))
        others = f" (and {len(unknown) - 1} more classes)" if len(unknown) > 1 else ""
        raise DataError(
            f"{shown(path)}, {where}: class {name!r}{others} is not among the {len(names)} classes of {owner}"
            f"{nearest_names(name, names)}"
        )
    return names, [label for label in labels if label is not None]


def _derived_names(labels: list[str | int]) -> tuple[str, ...]:
    if any(isinstance(label, int) for label in labels):
        return tuple(str(number) for number in range(max(int(label) for label in labels) + 1))
    names = {str(label) for label in labels}
    by_number = all(map(_is_number, names))
    return tuple(sorted(names, key=lambda name: (int(name), name) if by_number else (0, name)))


def _label_number(label: str | int, numbers: dict[str, int], *, by_number: bool) -> int | None:
    """A label's class; a text that is a number counts as one only where no class is called by a number."""
    if isinstance(label, int):
        return label if label < len(numbers) else None
    if label in numbers or not (by_number and _is_number(label)):
        return numbers.get(label)
    return int(label) if int(label) < len(numbers) else None


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= 9


def _record(item: RawRecord, label: int, base: Path, frame_pattern: str | None) -> ClipRecord:
    return ClipRecord(
        path=str(base / item.path),
        label=label,
        start_seconds=item.start_seconds,
        end_seconds=item.end_seconds,
        num_frames=item.num_frames,
        frame_pattern=frame_pattern if item.is_folder else None,
    )
