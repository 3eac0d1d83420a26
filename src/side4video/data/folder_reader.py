"""Reads a folder of class folders: videos, or one folder of frames per clip, at any depth below the class folder."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from side4video.data.records import RawRecord, has_image_name, has_video_name
from side4video.data.text_files import shown
from side4video.errors import DataError

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
_logger = logging.getLogger(__name__)


def read_folder(root: Path, *, empty_classes: bool = False) -> list[RawRecord]:
    """One record per clip, class by class in alphabetical order; the class is the name of the first folder level.

    Hidden files are passed over; other files that are no videos are counted and warned about. A class folder without
    clips is an error unless `empty_classes` (a validation set need not have every class).

    Raises: DataError when the folder is missing, unreadable, without class folders, or holds splits instead of classes.
    """
    listing = _list(root)
    if not listing.folders:
        holds = ""
        if listing.videos:
            holds = f"; it holds {len(listing.videos)} videos: move them into one folder per class"
        elif listing.images:
            holds = "; it holds pictures: a data set is a folder of class folders of clips"
        raise DataError(f"{shown(root)} has no class folders{holds}")
    if {name.lower() for name in listing.folders} <= _SPLIT_NAMES:
        inside = ", ".join(shown(root / name) for name in listing.folders)
        raise DataError(
            f"{shown(root)} holds splits, not classes: name them one by one as data.train and data.val: {inside}"
        )
    records: list[RawRecord] = []
    ignored = list(listing.videos) + list(listing.others)
    for class_name in listing.folders:
        paths, passed_over = _clips(root / class_name)
        if not paths and not empty_classes:
            pictures = (
                " (only pictures: a clip of frames needs a folder of its own)"
                if any(map(has_image_name, passed_over))
                else ""
            )
            raise DataError(f"class folder {shown(root / class_name)} holds no videos or frame folders{pictures}")
        ignored += passed_over
        records += [
            RawRecord(path, class_name, f"class folder {class_name!r}", is_folder=is_folder)
            for path, is_folder in paths
        ]
    if ignored:
        _logger.warning(
            "%s: passed over %d files that are not videos in class folders, such as %s",
            root,
            len(ignored),
            shown(ignored[0]),
        )
    return records


@dataclass
class _Listing:
    folders: list[str] = field(default_factory=list[str])
    videos: list[str] = field(default_factory=list[str])
    images: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])


def _list(folder: Path) -> _Listing:
    listing = _Listing()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    listing.folders.append(entry.name)
                elif has_video_name(entry.name):
                    listing.videos.append(entry.name)
                elif has_image_name(entry.name):
                    listing.images.append(entry.name)
                else:
                    listing.others.append(entry.name)
    except FileNotFoundError:
        raise DataError(f"{shown(folder)}: no such folder") from None
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be read: {error.strerror}") from error
    listing.folders.sort()
    listing.videos.sort()
    return listing


def _clips(class_folder: Path) -> tuple[list[tuple[str, bool]], list[str]]:
    """((path, is a frame folder) of each clip, files passed over)."""
    clips: list[tuple[str, bool]] = []
    passed_over: list[str] = []
    visited: set[tuple[int, int]] = set()
    pending = [(class_folder, True)]
    while pending:
        folder, is_class_folder = pending.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:  # a link back up
            continue
        visited.add((status.st_dev, status.st_ino))
        listing = _list(folder)
        if listing.images and not listing.videos and not is_class_folder:
            clips.append((str(folder), True))
            continue
        clips += [(str(folder / name), False) for name in listing.videos]
        passed_over += [str(folder / name) for name in listing.images + listing.others]
        pending += [(folder / name, False) for name in listing.folders]
    return sorted(clips), passed_over
