"""The lines of a data set as values: `ClipRecord` and `Manifest`, and the file names that count as video or picture."""

from __future__ import annotations

import hashlib
import os
from dataclasses import astuple, dataclass

# fmt: off
VIDEO_EXTENSIONS = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".flv", ".wmv",
    ".asf", ".3gp", ".3g2", ".ogv", ".ogg", ".gif", ".vob", ".mxf", ".divx", ".dv", ".h264", ".h265", ".hevc", ".ivf",
))
# fmt: on
IMAGE_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"))


@dataclass(frozen=True)
class ClipRecord:
    """One clip: where it is, its class as a number, and the part of the video that it spans (all of it by default).

    `path` is a video file or a folder of frames. `num_frames` is what a list file said; only the list knows it.
    """

    path: str
    label: int
    start_seconds: float | None = None
    end_seconds: float | None = None
    num_frames: int | None = None
    frame_pattern: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The clips of one split, and the class names that their labels number. A class may be without clips."""

    records: tuple[ClipRecord, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def fingerprint(self) -> str:
        """A hash of all records and class names; a data set that was moved as a whole keeps it."""
        base = os.path.dirname(os.path.commonprefix([record.path for record in self.records]))  # noqa: PTH120, RUF071
        digest = hashlib.sha256(repr(self.class_names).encode())
        for record in self.records:
            digest.update(repr((record.path[len(base) :], *astuple(record)[1:])).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def class_counts(self) -> list[int]:
        """Clips of each class."""
        counts = [0] * len(self.class_names)
        for record in self.records:
            counts[record.label] += 1
        return counts


@dataclass(frozen=True)
class RawRecord:
    """A clip as its list names it: the label is a name, or a number that indexes the class names.

    `where` says where in the source it stands (``"line 7"``), for messages.
    """

    path: str
    label: str | int
    where: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    num_frames: int | None = None
    is_folder: bool = False


def has_video_name(path: str) -> bool:
    """Whether a file is called like a video."""
    return os.path.splitext(path)[1].lower() in VIDEO_EXTENSIONS  # noqa: PTH122 - a string, maybe with odd bytes


def has_image_name(path: str) -> bool:
    """Whether a file is called like a picture."""
    return os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122
