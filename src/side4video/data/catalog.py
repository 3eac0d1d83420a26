"""Known data sets: classes, published counts, frame file names, geometry, and the labels that a mirror exchanges.

A table of frozen values; nothing here imports torch.

Source: Side4Video, arXiv:2311.15769, and its released code; counts of MSR-VTT, MSVD and VATEX are the usual splits.
Kinetics-400 has no counts here: they differ by release, and videos keep disappearing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from side4video.data.text_files import read_text, shown, text_lines
from side4video.errors import ConfigError, DataError, InputError, nearest_names

SOMETHING_FLIP_PAIRS = ((86, 87), (93, 94), (166, 167))
"""Pulling left/right, pushing left/right, turning the camera left/right: labels that a mirror exchanges."""
SOMETHING_CLASSES = 174


@dataclass(frozen=True)
class KnownDataset:
    """What is published about a data set. Unset: not meaningful for it, or not in the sources that we use."""

    name: str
    title: str
    task: Literal["recognition", "retrieval"]
    num_classes: int | None = None
    train_videos: int | None = None
    val_videos: int | None = None
    test_videos: int | None = None
    frame_pattern: str | None = None
    resize: Literal["short", "squash"] = "short"
    sampling: Literal["segment", "dense", "uniform", "retrieval"] = "uniform"
    flip: Literal["off", "on", "swap"] = "off"
    flip_pairs: tuple[tuple[int, int], ...] = ()
    grayscale: float = 0.0
    repeated_augmentation: int = 1
    min_frames: int = 0
    """Videos listed with fewer frames are dropped in training and validation."""
    test_views: tuple[int, int] | None = None
    """Crops and clips that the paper averages over."""


_TABLE = (
    KnownDataset(
        "ssv1", "Something-Something V1", "recognition", 174, 86_017, 11_522, 10_960, "{:05d}.jpg", "squash", "segment",
        "swap", SOMETHING_FLIP_PAIRS, repeated_augmentation=2, min_frames=8, test_views=(3, 2),
    ),
    KnownDataset(
        "ssv2", "Something-Something V2", "recognition", 174, 168_913, 24_777, 27_157, "{:06d}.jpg", "squash",
        "segment", "swap", SOMETHING_FLIP_PAIRS, repeated_augmentation=2, min_frames=8, test_views=(3, 2),
    ),
    KnownDataset(
        "k400", "Kinetics-400", "recognition", 400, frame_pattern="img_{:05d}.jpg", flip="on", grayscale=0.2,
        min_frames=8, test_views=(3, 4),
    ),
    KnownDataset(
        "msrvtt", "MSR-VTT", "retrieval", None, 9_000, None, 1_000, "img_{:05d}.jpg", sampling="retrieval",
    ),
    KnownDataset("msvd", "MSVD", "retrieval", None, 1_200, 100, 670, "img_{:05d}.jpg", sampling="retrieval"),
    KnownDataset("vatex", "VATEX", "retrieval", None, 25_991, 1_500, 1_500, "img_{:05d}.jpg", sampling="retrieval"),
)  # fmt: skip

KNOWN_DATASETS: Mapping[str, KnownDataset] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""By name."""


def known_dataset(name: str) -> KnownDataset:
    """A known data set.

    Raises: InputError with the nearest names.
    """
    try:
        return KNOWN_DATASETS[name]
    except KeyError:
        known = ", ".join(KNOWN_DATASETS)
        raise InputError(f"unknown data set {name!r}; known are {known}{nearest_names(name, KNOWN_DATASETS)}") from None


def flip_labels(pairs: str | Sequence[tuple[str, str]], class_names: Sequence[str]) -> dict[int, int]:
    """Label -> label of the mirror image, both ways.

    `pairs`: pairs of class names; a file with two names a line (a tab, a comma or a bar between them); or `something`
    for Something-Something's three, which needs its 174 classes.

    Raises: ConfigError for a class that does not exist or stands in two pairs, DataError for a malformed file.
    """
    if isinstance(pairs, str) and pairs == "something":
        if len(class_names) != SOMETHING_CLASSES:
            raise ConfigError(
                f"flip_pairs=something numbers Something-Something's {SOMETHING_CLASSES} classes; "
                f"this data set has {len(class_names)}: name the pairs, or a file of them"
            )
        numbered = list(SOMETHING_FLIP_PAIRS)
    else:
        named = _read_pairs(Path(pairs)) if isinstance(pairs, str) else list(pairs)
        numbered = [(_class_number(a, class_names), _class_number(b, class_names)) for a, b in named]
    labels: dict[int, int] = {}
    for first, second in numbered:
        repeated = {first, second} & set(labels)
        if repeated or first == second:
            name = class_names[min(repeated) if repeated else first]
            raise ConfigError(f"flip_pairs: class {name!r} must be in one pair, and once; got it again")
        labels |= {first: second, second: first}
    if not labels:
        raise ConfigError("flip_pairs names no pair")
    return labels


def _read_pairs(file: Path) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for line, text in text_lines(read_text(file)):
        mark = next((mark for mark in "\t|," if mark in text), None)
        names = [name.strip() for name in text.split(mark)] if mark else []
        if len(names) != 2 or not all(names):
            raise DataError(
                f"{shown(file)}, line {line}: must be two class names with a tab, a comma or a bar between them; "
                f"got {text[:120]!r}"
            )
        pairs.append((names[0], names[1]))
    return pairs


def _class_number(name: str, class_names: Sequence[str]) -> int:
    if name not in class_names:
        raise ConfigError(f"flip_pairs: unknown class {name!r}{nearest_names(name, class_names)}")
    return list(class_names).index(name)
