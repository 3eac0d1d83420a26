"""Finds the videos of a data set by their published names, in a folder of any depth, with one walk through it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from side4video.data.records import has_image_name, has_video_name
from side4video.data.text_files import shown
from side4video.errors import DataError


class VideoIndex:
    """Videos and frame folders below `root` by name, without folder and extension.

    Where a name occurs twice, the one nearer to the root counts, then the first by alphabet.

    Raises: DataError when the folder is missing or unreadable.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise DataError(f"{shown(root)}: no such folder of videos")
        self._paths: dict[str, str] = {}
        level = [str(root)]
        while level:
            level = [folder for parent in level for folder in self._take(parent)]

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, names: Sequence[str]) -> str | None:
        """The path of the first of these names that is there; a name may come with a folder and an extension."""
        for name in names:
            base = os.path.basename(name)  # noqa: PTH119 - a name from a list, maybe with odd characters
            found = self._paths.get(base)
            if found is None and has_video_name(base):
                found = self._paths.get(os.path.splitext(base)[0])  # noqa: PTH122
            if found is not None:
                return found
        return None

    def _take(self, folder: str) -> list[str]:
        """Note what lies in one folder; gives the folders below it."""
        try:
            with os.scandir(folder) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{shown(folder)}: cannot be read: {error.strerror}") from error
        for entry in listing:
            if has_video_name(entry.name) and not entry.is_dir():
                self._paths.setdefault(os.path.splitext(entry.name)[0], entry.path)  # noqa: PTH122
        if folder != str(self.root) and any(has_image_name(entry.name) for entry in listing):
            self._paths.setdefault(os.path.basename(folder), folder)  # noqa: PTH119
        return [entry.path for entry in listing if not entry.name.startswith(".") and entry.is_dir()]
