"""What a downloaded data set holds: which clips its published files list, which of them are there, and their classes.

Nothing is opened here but the annotation files, and folders are listed once. What a file should be called when it is
not there is in the message.

Source: the files as their authors publish them (Something-Something: 20BN; Kinetics: DeepMind; MSR-VTT, MSVD and VATEX
as CLIP4Clip, arXiv:2104.08860, and the released code keep them).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import cast

from side4video.data.caption_sets import READERS
from side4video.data.catalog import KNOWN_DATASETS
from side4video.data.class_names import read_class_names
from side4video.data.folder_reader import read_folder
from side4video.data.published_readers import read_kinetics, read_something
from side4video.data.records import RawRecord
from side4video.data.text_files import read_json, read_text, shown
from side4video.data.video_index import VideoIndex
from side4video.errors import DataError, InputError, nearest_names

PUBLISHED_VIDEOS = {"ssv1": 108_499, "ssv2": 220_847, "msrvtt": 10_000, "msvd": 1_970}
"""Videos of the whole data set. K400 and VATEX are counted as downloaded: videos keep disappearing."""
DATASETS = (*KNOWN_DATASETS, "folder")
CAPTION_FOLDERS = {"msrvtt": "msrvtt_data", "msvd": "msvd_data", "vatex": "vatex_data"}
_NOWHERE = Path("/nonexistent")
_FOLDERS_LOOKED_INTO = 64
# annotation files by split; {} is the usual prefix, and without it they count too
_SOMETHING = {
    "ssv1": ("something-something-v1-", ".csv"),
    "ssv2": ("something-something-v2-", ".json"),
}
_SOMETHING_SPLITS = {"train": ("train",), "val": ("validation", "val"), "test": ("test",), "labels": ("labels",)}
_KINETICS = {
    "train": ("train.csv", "kinetics400_train.csv", "kinetics-400_train.csv", "kinetics_train.csv"),
    "val": ("val.csv", "validate.csv", "validation.csv", "kinetics400_val.csv", "kinetics-400_val.csv",
            "kinetics_val.csv"),
    "test": ("test.csv", "kinetics400_test.csv", "kinetics-400_test.csv", "kinetics_test.csv"),
    "labels": ("kinetics_400_labels.csv", "kinetics400_labels.csv", "labels.csv"),
}  # fmt: skip
_CAPTION_FILES = {
    "msrvtt": ("MSRVTT_data.json", "MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv", "MSRVTT_JSFUSION_test.csv"),
    "msvd": ("raw-captions.pkl", "train_list.txt", "val_list.txt", "test_list.txt", "youtube_mapping.txt"),
    "vatex": ("vatex_data.json", "vatex_training_v1.0.json", "vatex_validation_v1.0.json", "train_list.txt",
              "val_list.txt", "test_list.txt"),
}  # fmt: skip
# a split, its name for the reader, and the file without which there is none
_CAPTION_SPLITS = {
    "msrvtt": (
        ("train", "train-9k", ("MSRVTT_train.9k.csv",)),
        ("train-7k", "train-7k", ("MSRVTT_train.7k.csv",)),
        ("test", "test-1k-a", ("MSRVTT_JSFUSION_test.csv",)),
    ),
    "msvd": tuple((split, split, (f"{split}_list.txt",)) for split in ("train", "val", "test")),
    "vatex": (
        ("train", "train", ("train_list.txt", "vatex_training_v1.0.json")),
        ("val", "val", ("val_list.txt", "vatex_validation_v1.0.json")),
        ("test", "test", ("test_list.txt",)),
    ),
}


@dataclass(frozen=True)
class Clip:
    """One listed clip. `source` is None where it is missing. `target` is its place below the prepared folder, without
    `videos/` or `frames/` and without an ending. A clip without a label is checked and not prepared."""

    name: str
    split: str
    target: str
    source: str | None
    label: int | None = None
    is_folder: bool = False


@dataclass(frozen=True)
class Source:
    """A data set as it was found. `captions` are the files of a text-video data set; `num_files` counts the videos and
    frame folders that are there, listed or not."""

    dataset: str
    clips: tuple[Clip, ...]
    num_files: int
    class_names: tuple[str, ...] = ()
    captions: tuple[Path, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def retrieval(self) -> bool:
        """Whether it has captions instead of classes."""
        return self.dataset in CAPTION_FOLDERS

    @property
    def missing(self) -> list[Clip]:
        """Listed and not there."""
        return [clip for clip in self.clips if clip.source is None]

    def splits(self) -> list[str]:
        """Names of the splits, in order."""
        return list(dict.fromkeys(clip.split for clip in self.clips))


def find_source(dataset: str, folder: Path) -> Source:
    """The data set called `dataset` in `folder`.

    Raises:
        InputError: an unknown data set.
        DataError: no such folder, annotation files that are not there (with their names) or malformed.
    """
    if dataset not in DATASETS:
        known = ", ".join(DATASETS)
        raise InputError(f"unknown data set '{dataset}'{nearest_names(dataset, DATASETS)}; known are {known}")
    if not folder.is_dir():
        raise DataError(f"{shown(folder)}: no such folder")
    if dataset in _SOMETHING:
        return _something(dataset, folder)
    if dataset == "k400":
        return _kinetics(folder)
    if dataset == "folder":
        return _class_folders(folder)
    return _captioned(dataset, folder)


def _something(dataset: str, folder: Path) -> Source:
    prefix, suffix = _SOMETHING[dataset]
    files: dict[str, Path] = {}
    for split, names in _SOMETHING_SPLITS.items():
        found = _find(folder, [f"{start}{name}{suffix}" for start in (prefix, "") for name in names])
        if found is not None:
            files[split] = found
        elif split != "test":
            raise DataError(f"{shown(folder)} holds no {prefix}{names[0]}{suffix} (or {names[0]}{suffix})")
    class_names = read_class_names(files["labels"])
    numbers = {name: number for number, name in enumerate(class_names)}
    index = VideoIndex(folder)
    clips: list[Clip] = []
    for split in ("train", "val"):
        clips += _labelled(read_something(files[split], _NOWHERE), split, numbers, index, files["labels"])
    answers = _find(folder, ["test-answers.csv"])
    if answers is not None:
        clips += _labelled(read_something(answers, _NOWHERE), "test", numbers, index, files["labels"])
    elif "test" in files:
        clips += [_clip(name, "test", name, [name], None, index) for name in _plain_ids(files["test"])]
    return _checked(Source(dataset, tuple(clips), len(index), class_names))


def _labelled(
    records: Sequence[RawRecord], split: str, numbers: dict[str, int], index: VideoIndex, labels: Path
) -> list[Clip]:
    clips: list[Clip] = []
    for record in records:
        name = Path(record.path).stem
        if record.label not in numbers:
            raise DataError(f"clip {name} ({split}): its class {record.label!r} is not in {shown(labels)}")
        clips.append(_clip(name, split, name, [name], numbers[str(record.label)], index))
    return clips


def _plain_ids(file: Path) -> list[str]:
    text = read_text(file)
    if file.suffix == ".csv":
        return [line.split(";")[0].strip() for line in text.splitlines() if line.strip()]
    content = read_json(file, text)
    entries = cast("list[object]", content) if isinstance(content, list) else []
    ids = [cast("dict[str, object]", entry).get("id") for entry in entries if isinstance(entry, dict)]
    if len(ids) != len(entries) or not all(isinstance(name, str | int) for name in ids):
        raise DataError(f"{shown(file)}: must be a list of objects with id")
    return [str(name) for name in ids]


def _kinetics(folder: Path) -> Source:
    files = {split: found for split, names in _KINETICS.items() if (found := _find(folder, names)) is not None}
    for split in ("train", "val"):
        if split not in files:
            raise DataError(f"{shown(folder)} holds no {' or '.join(_KINETICS[split][:2])}")
    index = VideoIndex(folder)
    records = {split: read_kinetics(files[split], _NOWHERE) for split in ("train", "val", "test") if split in files}
    notes: list[str] = []
    if "labels" in files:
        class_names = read_class_names(files["labels"])
    else:
        class_names = tuple(sorted({str(record.label) for record in records["train"]}))
        notes.append("classes are numbered in alphabetical order")
    numbers = {name: number for number, name in enumerate(class_names)}
    clips: list[Clip] = []
    for split, rows in records.items():
        for record in rows:
            name = Path(record.path).stem
            if record.label not in numbers:
                raise DataError(f"clip {name} ({split}): its class {record.label!r} is not a class of training")
            names = [name, name.rsplit("_", 2)[0]]
            clips.append(_clip(name, split, f"{split}/{name}", names, numbers[str(record.label)], index))
    return _checked(Source("k400", tuple(clips), len(index), class_names, notes=tuple(notes)))


def _class_folders(folder: Path) -> Source:
    splits = {split: folder / split for split in ("train", "val", "test") if (folder / split).is_dir()}
    if "train" not in splits:
        splits = {"": folder}
    records = {split: read_folder(path, empty_classes=split in ("val", "test")) for split, path in splits.items()}
    class_names = tuple(sorted({str(record.label) for rows in records.values() for record in rows}))
    numbers = {name: number for number, name in enumerate(class_names)}
    clips: list[Clip] = []
    taken: set[str] = set()
    for split, rows in records.items():
        for record in rows:
            relative = Path(record.path).relative_to(folder)
            target = str(relative if record.is_folder else relative.with_suffix(""))
            if target.lower() in taken:  # a.avi beside a.mp4
                target = f"{target}-{relative.suffix.lstrip('.')}"
            taken.add(target.lower())
            clips.append(
                Clip(str(relative), split or "train", target, record.path, numbers[str(record.label)], record.is_folder)
            )
    return Source("folder", tuple(clips), len(clips), class_names)


def _captioned(dataset: str, folder: Path) -> Source:
    names = _CAPTION_FILES[dataset]
    home = next((place for place in _places(folder, deep=True) if (place / names[0]).is_file()), None)
    if home is None and dataset == "vatex":
        home = next((place for place in _places(folder, deep=True) if (place / names[1]).is_file()), None)
    if home is None:
        raise DataError(f"{shown(folder)} holds no {names[0]}, which {dataset} keeps its captions in")
    index = VideoIndex(folder)
    clips: list[Clip] = []
    for split, reader_split, needed in _CAPTION_SPLITS[dataset]:
        if not any((home / name).is_file() for name in needed):
            continue
        for raw in READERS[dataset](home, reader_split):
            source = index.find(raw.names)
            target = raw.names[0] if source is None else _stem(source)
            clips.append(Clip(raw.names[0], split, target, source, is_folder=_is_folder(source)))
    if not clips:
        wanted = ", ".join(needed[0] for _, _, needed in _CAPTION_SPLITS[dataset])
        raise DataError(f"{shown(home)} holds none of {wanted}")
    captions = tuple(home / name for name in names if (home / name).is_file())
    return _checked(Source(dataset, tuple(clips), len(index), captions=captions))


def _clip(name: str, split: str, target: str, names: Sequence[str], label: int | None, index: VideoIndex) -> Clip:
    source = index.find(names)
    return Clip(name, split, target, source, label, is_folder=_is_folder(source))


def _is_folder(source: str | None) -> bool:
    # the index gives videos by files that are called so, and everything else is a folder of pictures
    return source is not None and os.path.isdir(source)  # noqa: PTH112


def _stem(source: str) -> str:
    path = Path(source)
    return path.name if path.is_dir() else path.stem


def _checked(source: Source) -> Source:
    """With notes where published counts differ; a clip that is listed twice is an error."""
    seen: dict[tuple[str, str], Clip] = {}
    for clip in source.clips:
        key = (clip.split, clip.name)
        if key in seen:
            raise DataError(f"{source.dataset}: clip {clip.name} is listed twice in {clip.split}")
        seen[key] = clip
    notes = list(source.notes)
    known = KNOWN_DATASETS[source.dataset]
    published = {"train": known.train_videos, "val": known.val_videos, "test": known.test_videos}
    for split in source.splits():
        listed, wanted = sum(clip.split == split for clip in source.clips), published.get(split)
        if wanted is not None and listed != wanted:
            notes.append(f"{split}: {listed:,} clips are listed, published are {wanted:,}")
    total = PUBLISHED_VIDEOS.get(source.dataset)
    if total is not None and source.num_files != total:
        notes.append(f"{source.num_files:,} videos are there, published are {total:,}")
    if known.num_classes is not None and len(source.class_names) != known.num_classes:
        notes.append(f"{len(source.class_names)} classes, published are {known.num_classes}")
    return Source(source.dataset, source.clips, source.num_files, source.class_names, source.captions, tuple(notes))


def _find(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files in the folder or in those inside it."""
    places = _places(folder)
    return next((place / name for name in names for place in places if (place / name).is_file()), None)


def _places(folder: Path, *, deep: bool = False) -> list[Path]:
    """The folder and the first few inside it; a folder of a hundred thousand frame folders is not searched."""
    is_place: Callable[[os.DirEntry[str]], bool] = lambda e: e.is_dir() and not e.name.startswith(".")  # noqa: E731
    places = [folder]
    level = [folder]
    for _ in range(2 if deep else 1):
        inner: list[Path] = []
        for place in level:
            with os.scandir(place) as entries:
                inner += [Path(entry.path) for entry in islice(filter(is_place, entries), _FOLDERS_LOOKED_INTO)]
        level = sorted(inner)
        places += level
    return places
