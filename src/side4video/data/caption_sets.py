"""Reads the caption files of published text-video data sets: MSR-VTT, MSVD, VATEX, DiDeMo, LSMDC, ActivityNet.

A reader knows names and captions only; where a video lies is found by `captions`. Splits are called as in the papers:
`train`, `val`, `test`, and for MSR-VTT `train-9k`, `train-7k` and `test-1k-a`.

Source: the files as their authors and CLIP4Clip (arXiv:2104.08860) published them; for DiDeMo and ActivityNet a video's
sentences are joined to one paragraph, as is usual for retrieval.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from side4video.data.plain_pickle import read_plain_pickle
from side4video.data.text_files import csv_rows, read_json, read_text, shown, text_lines
from side4video.errors import DataError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawCaptions:
    """The captions of one video as published. `names` are the names that its file may have, the usual one first."""

    names: tuple[str, ...]
    captions: tuple[str, ...]
    start_seconds: float | None = None
    end_seconds: float | None = None


def read_msrvtt(folder: Path, split: str) -> list[RawCaptions]:
    """MSR-VTT: `MSRVTT_train.9k.csv` or `.7k.csv` with `MSRVTT_data.json` (20 captions a video), or the 1k-A test CSV.

    Raises: DataError for an unknown split, or files that are missing or of another form.
    """
    if split in ("test", "test-1k-a", "val"):
        return _msrvtt_test(folder / "MSRVTT_JSFUSION_test.csv")
    lists = {"train": "9k", "train-9k": "9k", "train-7k": "7k"}
    if split not in lists:
        raise DataError(f"MSR-VTT has the splits train-9k, train-7k and test-1k-a; got {split!r}")
    path = folder / f"MSRVTT_train.{lists[split]}.csv"
    header, rows = _table(path, ("video_id",))
    wanted = dict.fromkeys(cells[header.index("video_id")] for _, cells in rows)
    if len(wanted) < len(rows):
        _logger.warning("%s: %d lines repeat a video and are left out", path, len(rows) - len(wanted))
    file = folder / "MSRVTT_data.json"
    content = _object(file, read_json(file, read_text(file)))
    captions: dict[str, list[str]] = {name: [] for name in wanted}
    for number, item in enumerate(_list(file, content.get("sentences"), "sentences"), start=1):
        entry = _object(file, item, f"sentence {number}")
        name = _text(file, entry, "video_id", f"sentence {number}")
        if name in captions:
            captions[name].append(_text(file, entry, "caption", f"sentence {number}"))
    return _with_captions(file, (((name,), texts) for name, texts in captions.items()))


def read_msvd(folder: Path, split: str) -> list[RawCaptions]:
    """MSVD: `{split}_list.txt`, `raw-captions.pkl` (about 40 captions a video), `youtube_mapping.txt` if it is there.

    Raises: DataError for an unknown split, or files that are missing or of another form.
    """
    wanted = _id_list(folder, "MSVD", split)
    file = folder / "raw-captions.pkl"
    content = _object(file, read_plain_pickle(file))
    mapping_file = folder / "youtube_mapping.txt"
    others = _mapping(mapping_file) if mapping_file.is_file() else {}
    found: list[tuple[tuple[str, ...], list[str]]] = []
    for name in wanted:
        sentences = _list(file, content.get(name), f"captions of {name}")
        texts = [_sentence(file, sentence, name) for sentence in sentences]
        found.append(((name, others[name]) if name in others else (name,), texts))
    return _with_captions(file, found)


def read_vatex(source: Path, split: str) -> list[RawCaptions]:
    """VATEX: `videoID` and `enCap` (10 English captions a video).

    `source` is a JSON file, or a folder with `vatex_training_v1.0.json` and `vatex_validation_v1.0.json`, or with all
    of them in the released code's `vatex_data.json`. `{split}_list.txt` beside it chooses videos; only so are there the
    usual 1,500 for validation and 1,500 others for testing.

    Raises: DataError for an unknown split, or a file that is missing or of another form.
    """
    folder, file = (source, source / "vatex_data.json") if source.is_dir() else (None, source)
    if folder is not None and not file.is_file():
        files = {"train": "vatex_training_v1.0.json", "val": "vatex_validation_v1.0.json"}
        files["test"] = files["val"]
        if split not in files:
            raise DataError(f"VATEX has the splits train, val and test; got {split!r}")
        file = folder / files[split]
    content = read_json(file, read_text(file))
    if isinstance(content, dict):
        content = [{"videoID": name, **_object(file, entry, name)} for name, entry in _object(file, content).items()]
    found: dict[str, list[str]] = {}
    for number, item in enumerate(_list(file, content), start=1):
        entry = _object(file, item, f"entry {number}")
        texts = [_as_text(file, text, f"entry {number}") for text in _list(file, entry.get("enCap"), "enCap")]
        found.setdefault(_text(file, entry, "videoID", f"entry {number}"), []).extend(texts)
    # what holds every split needs a list to tell them apart
    if folder is not None and (file.name == "vatex_data.json" or (folder / f"{split}_list.txt").is_file()):
        wanted = _id_list(folder, "VATEX", split)
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise DataError(
                f"{shown(file)}: {len(unknown)} videos of {split}_list.txt have no captions, such as {unknown[0]}"
            )
        found = {name: found[name] for name in wanted}
    return _with_captions(file, (((name,), texts) for name, texts in found.items()))


def read_didemo(folder: Path, split: str) -> list[RawCaptions]:
    """DiDeMo: `{split}_list.txt` and `{split}_data.json`; the descriptions of a video become one paragraph.

    Raises: DataError for an unknown split, or files that are missing or of another form.
    """
    wanted = {_stem(name): name for name in _id_list(folder, "DiDeMo", split)}
    file = folder / f"{split}_data.json"
    sentences: dict[str, list[str]] = {name: [] for name in wanted}
    for number, item in enumerate(_list(file, read_json(file, read_text(file))), start=1):
        entry = _object(file, item, f"entry {number}")
        name = _stem(_text(file, entry, "video", f"entry {number}"))
        if name in sentences:
            sentences[name].append(_text(file, entry, "description", f"entry {number}"))
    # a file of another format may keep the first one's ending in its name
    return _with_captions(
        file, (((name, wanted[name]), [" ".join(texts)] if texts else []) for name, texts in sentences.items())
    )


def read_lsmdc(folder: Path, split: str) -> list[RawCaptions]:
    """LSMDC: tab-separated lines of clip, four times and a sentence; the test split is the challenge's 1,000 clips.

    Raises: DataError for an unknown split, or a file that is missing or of another form.
    """
    files = {
        "train": "LSMDC16_annos_training.csv",
        "val": "LSMDC16_annos_val.csv",
        "test": "LSMDC16_challenge_1000_publictect.csv",
    }
    if split not in files:
        raise DataError(f"LSMDC has the splits {', '.join(files)}; got {split!r}")
    file = folder / files[split]
    found: list[tuple[tuple[str, ...], list[str]]] = []
    for number, line in text_lines(read_text(file)):
        cells = line.split("\t")
        if len(cells) != 6:
            raise DataError(f"{shown(file)}, line {number}: must have 6 columns between tabs; got {len(cells)}")
        found.append(((cells[0].strip(),), [cells[5].strip()]))
    return _with_captions(file, found)


def read_activitynet(folder: Path, split: str) -> list[RawCaptions]:
    """ActivityNet captions: `train.json` or `val_1.json`, with `train_ids.json` or `val_ids.json` where there is one.

    The sentences of a video become one paragraph.

    Raises: DataError for an unknown split, or files that are missing or of another form.
    """
    files = {"train": ("train.json", "train_ids.json"), "val": ("val_1.json", "val_ids.json")}
    files["test"] = files["val"]
    if split not in files:
        raise DataError(f"ActivityNet has the splits train and val (which papers test on); got {split!r}")
    file, ids = (folder / name for name in files[split])
    content = _object(file, read_json(file, read_text(file)))
    wanted = list(content)
    if ids.is_file():
        wanted = [_as_text(ids, name, "list") for name in _list(ids, read_json(ids, read_text(ids)))]
    found: list[tuple[tuple[str, ...], list[str]]] = []
    for name in wanted:
        # names come with and without the v_ that the files have
        key = next((key for key in (name, f"v_{name}", name.removeprefix("v_")) if key in content), name)
        entry = _object(file, content.get(key), f"video {name}")
        texts = [_as_text(file, text, f"video {name}") for text in _list(file, entry.get("sentences"), "sentences")]
        bare = name.removeprefix("v_")
        found.append(((f"v_{bare}", bare), [" ".join(text.strip() for text in texts)]))
    return _with_captions(file, found)


READERS: dict[str, Callable[[Path, str], list[RawCaptions]]] = {
    "msrvtt": read_msrvtt,
    "msvd": read_msvd,
    "vatex": read_vatex,
    "didemo": read_didemo,
    "lsmdc": read_lsmdc,
    "activitynet": read_activitynet,
}


def _msrvtt_test(file: Path) -> list[RawCaptions]:
    header, rows = _table(file, ("video_id", "sentence"))
    name, sentence = header.index("video_id"), header.index("sentence")
    return _with_captions(file, (((cells[name],), [cells[sentence]]) for _, cells in rows))


def _table(file: Path, columns: tuple[str, ...]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    rows = list(csv_rows(file, read_text(file), ","))
    header = [cell.strip() for cell in rows[0][1]]
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{shown(file)}, line 1: lacks the column {', '.join(missing)}; got {header}")
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(f"{shown(file)}, line {line}: {len(cells)} columns where the header has {len(header)}")
    return header, [(line, [cell.strip() for cell in cells]) for line, cells in rows[1:]]


def _id_list(folder: Path, data_set: str, split: str) -> list[str]:
    if split not in ("train", "val", "test"):
        raise DataError(f"{data_set} has the splits train, val and test; got {split!r}")
    file = folder / f"{split}_list.txt"
    listed = [line.strip() for _, line in text_lines(read_text(file))]
    wanted = list(dict.fromkeys(listed))
    if len(wanted) < len(listed):
        _logger.warning("%s: %d lines repeat a video and are left out", file, len(listed) - len(wanted))
    return wanted


def _mapping(file: Path) -> dict[str, str]:
    pairs = [line.split() for _, line in text_lines(read_text(file))]
    bad = [number for number, pair in enumerate(pairs, start=1) if len(pair) != 2]
    if bad:
        raise DataError(f"{shown(file)}, line {bad[0]}: must be a YouTube name and a vid number")
    return dict(pairs)


def _sentence(file: Path, sentence: object, name: str) -> str:
    """A caption as a text, or as a list of words."""
    if isinstance(sentence, list | tuple):
        return " ".join(_as_text(file, word, f"captions of {name}") for word in cast("Iterable[object]", sentence))
    return _as_text(file, sentence, f"captions of {name}")


def _stem(name: str) -> str:
    # DiDeMo's names contain dots; their extension is the last part of five letters at most
    head, dot, tail = name.rpartition(".")
    return head if dot and 2 <= len(tail) <= 4 else name


def _with_captions(file: Path, found: Iterable[tuple[tuple[str, ...], list[str]]]) -> list[RawCaptions]:
    """One entry a video: what is listed twice is the same video with more captions. Empty captions are left out."""
    captions: dict[tuple[str, ...], list[str]] = {}
    repeated = empty = 0
    for names, texts in found:
        repeated += names in captions
        kept = [text.strip() for text in texts if text.strip()]
        empty += len(texts) - len(kept)
        captions.setdefault(names, []).extend(kept)
    if not captions:
        raise DataError(f"{shown(file)} lists no videos")
    without = [names[0] for names, texts in captions.items() if not texts]
    if without:
        raise DataError(f"{shown(file)}: video {without[0]} has no caption")
    if repeated:
        _logger.warning("%s: %d videos are listed more than once; their captions are put together", file, repeated)
    if empty:
        _logger.warning("%s: left out %d empty captions", file, empty)
    return [RawCaptions(names, tuple(texts)) for names, texts in captions.items()]


def _object(file: Path, value: object, where: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        place = f", {where}" if where else ""
        raise DataError(f"{shown(file)}{place}: must be an object; got {str(value)[:80]}")
    return {str(key): item for key, item in cast("dict[object, object]", value).items()}


def _list(file: Path, value: object, where: str = "") -> list[object]:
    if not isinstance(value, list | tuple):
        place = f", {where}" if where else ""
        raise DataError(f"{shown(file)}{place}: must be a list; got {str(value)[:80]}")
    return list(cast("Iterable[object]", value))


def _text(file: Path, entry: dict[str, object], key: str, where: str) -> str:
    if key not in entry:
        raise DataError(f"{shown(file)}, {where}: lacks {key!r}; got {', '.join(entry) or 'nothing'}")
    return _as_text(file, entry[key], where)


def _as_text(file: Path, value: object, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{shown(file)}, {where}: must be a text; got {str(value)[:80]}")
    return value
