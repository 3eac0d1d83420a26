"""Damaged annotation files of every form that is read, recipes included, and what the parsers make of them.

A parser may read the file or raise an error of ours that names it. Where the damage is none (`harmless`), the values
must be those of the undamaged file.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from fuzzing.bases import Bases
from fuzzing.bytes_mutations import mutate
from fuzzing.outcome import Judged, Stopped, attempt
from fuzzing.text_mutations import damage, harmless
from side4video.config.load import load_settings
from side4video.data.caption_sets import READERS
from side4video.data.captions import read_captions
from side4video.data.class_names import read_class_names
from side4video.data.manifest import read_manifest
from side4video.data.plain_pickle import read_plain_pickle

Case = Callable[[random.Random, Path, Bases], tuple[str, Judged]]
NAMES = [f"clip{number}" for number in range(6)]
_CAPTIONS = [
    "a dog jumps into water",
    'she says "hello, world"',
    "ein Mädchen läuft",
    "two people; one ball",
    "a",
    "  spaces  ",
]

TABLE = "path,label,start,end,num_frames\n" + "".join(
    f"{name}.mp4,{'walk' if number % 2 else 'run'},{number},{number + 2.5},{20 + number}\n"
    for number, name in enumerate(NAMES)
)
LISTS: dict[str, tuple[str, str]] = {
    "table": ("list.csv", TABLE),
    "tab table": ("list.tsv", TABLE.replace(",", "\t")),
    "jsonl": (
        "list.jsonl",
        "".join(json.dumps({"path": f"{n}.mp4", "label": "ab"[i % 2], "start": i}) + "\n" for i, n in enumerate(NAMES)),
    ),
    "list": ("list.txt", "".join(f"{name} {20 + number} {number % 3}\n" for number, name in enumerate(NAMES))),
    "list of files": (
        "list.txt",
        "".join(f"some folder/{name}.mp4 {number % 3}\n" for number, name in enumerate(NAMES)),
    ),
    "something": (
        "train.json",
        json.dumps(
            [{"id": str(100 + i), "template": f"Moving [something] {'up' if i % 2 else 'down'}"} for i in range(6)]
        ),
    ),
    "something v1": (
        "train.csv",
        "".join(f"{100 + number};Moving something {'up' if number % 2 else 'down'}\n" for number in range(6)),
    ),
    "kinetics": (
        "train.csv",
        "label,youtube_id,time_start,time_end,split\n"
        + "".join(f"{'ski' if i % 2 else 'sing'},{n},{i},{i + 10},train\n" for i, n in enumerate(NAMES)),
    ),
}
CLASSES: dict[str, tuple[str, str]] = {
    "class lines": ("classes.txt", "walk\nrun\njump left\njump right\n"),
    "class table": ("classes.csv", "id,name\n0,walk\n1,run\n2,jump\n"),
    "class json": ("classes.json", json.dumps({"walk": "0", "run": "1", "jump": "2"})),
    "class list": ("classes.json", json.dumps(["walk", "run", "jump"])),
}
CAPTIONS: dict[str, dict[str, str]] = {
    "table": {
        "captions.csv": "video,caption,start,end\n"
        + "".join(
            f'{n}.mp4,"{c.replace(chr(34), chr(34) * 2)}",0,{i + 1}\n'
            for i, (n, c) in enumerate(zip(NAMES, _CAPTIONS, strict=True))
        )
    },
    "jsonl": {
        "captions.jsonl": "".join(
            json.dumps({"video": f"{n}.mp4", "caption": c}) + "\n" for n, c in zip(NAMES, _CAPTIONS, strict=True)
        )
    },
    "msrvtt": {
        "MSRVTT_train.9k.csv": "video_id\n" + "\n".join(NAMES) + "\n",
        "MSRVTT_data.json": json.dumps(
            {"sentences": [{"video_id": n, "caption": c} for n, c in zip(NAMES, _CAPTIONS, strict=True)]}
        ),
    },
    "msvd": {
        "train_list.txt": "\n".join(NAMES) + "\n",
        "raw-captions.pkl": "",
        "youtube_mapping.txt": "".join(f"yt{n} {n}\n" for n in NAMES),
    },
    "vatex": {
        "vatex_training_v1.0.json": json.dumps(
            [{"videoID": n, "enCap": [c, "again"]} for n, c in zip(NAMES, _CAPTIONS, strict=True)]
        )
    },
    "didemo": {
        "train_list.txt": "\n".join(f"{n}.mp4" for n in NAMES) + "\n",
        "train_data.json": json.dumps(
            [{"video": f"{n}.mp4", "description": c} for n, c in zip(NAMES, _CAPTIONS, strict=True)]
        ),
    },
    "lsmdc": {
        "LSMDC16_annos_training.csv": "".join(f"{n}\t0\t1\t2\t3\t{c}\n" for n, c in zip(NAMES, _CAPTIONS, strict=True))
    },
    "activitynet": {
        "train.json": json.dumps(
            {f"v_{n}": {"sentences": [c], "duration": 3.5} for n, c in zip(NAMES, _CAPTIONS, strict=True)}
        )
    },
}
RECIPE = """# a recipe
task: recognition
memory: balanced
backbone: {name: tiny-clip, pretrained: false, precision: fp32}
side:
  width: 24
  taps: [0, 2]
data: &data
  train: clips/train
  num_frames: 6
  batch_size: 4
optim: {lr: 1.0e-3, epochs: 2}
train: {seed: 5, accelerator: cpu}
"""


def lists(rng: random.Random, folder: Path, _bases: Bases) -> tuple[str, Judged]:
    """Lists of clips."""
    kind = rng.choice(sorted(LISTS))
    name, text = LISTS[kind]
    return _file(rng, folder, kind, name, text.encode(), lambda path: read_manifest(path).records)


def class_names(rng: random.Random, folder: Path, _bases: Bases) -> tuple[str, Judged]:
    """Lists of class names."""
    kind = rng.choice(sorted(CLASSES))
    name, text = CLASSES[kind]
    return _file(rng, folder, kind, name, text.encode(), read_class_names)


def captions(rng: random.Random, folder: Path, _bases: Bases) -> tuple[str, Judged]:
    """Tables of captions and the files of published data sets; one of the files is damaged."""
    kind = rng.choice(sorted(CAPTIONS))
    files = {name: text.encode() for name, text in CAPTIONS[kind].items()}
    if kind == "msvd":
        content = {n: [c.split(), "again"] for n, c in zip(NAMES, _CAPTIONS, strict=True)}
        files["raw-captions.pkl"] = pickle.dumps(content, protocol=rng.choice((0, 2, 4)))
    for number, name in enumerate(NAMES):
        (folder / f"{name}.mp4").write_bytes(bytes([number]))
    chosen = rng.choice(sorted(files))

    def read(path: Path) -> Any:
        source = path if len(files) == 1 and kind in ("table", "jsonl") else folder
        return read_captions(
            source, format=kind if kind in READERS else "auto", root=folder, missing="leave_out"
        ).records

    for name, data in files.items():
        (folder / name).write_bytes(data)
    return _file(rng, folder, kind, chosen, files[chosen], read, names=list(files))


def recipes(rng: random.Random, folder: Path, _bases: Bases) -> tuple[str, Judged]:
    """YAML recipes, hostile tags and anchors included."""
    text = RECIPE
    if rng.random() < 0.3:
        attack = rng.choice(_YAML)
        text = rng.choice((attack, RECIPE + attack, RECIPE.replace("clips/train", attack.strip())))
        path = folder / "recipe.yaml"
        path.write_text(text)
        return "yaml attack", _judge(path, lambda path: load_settings(path).model_dump(), None, folder, ["recipe.yaml"])
    return _file(rng, folder, "recipe", "recipe.yaml", text.encode(), lambda path: load_settings(path).model_dump())


def pickles(rng: random.Random, folder: Path, _bases: Bases) -> tuple[str, Judged]:
    """Pickles that want something run, that are enormous, and damaged ones."""
    path = folder / "raw-captions.pkl"
    kind = rng.choice(("run", "run", "bytes", "bytes", "opcodes", "opcodes", "memo", "deep"))
    if kind == "run":
        data = _hostile_pickle(rng, folder)
    elif kind == "opcodes":
        data = (
            b"\x80\x04" * rng.choice((0, 1))
            + bytes(
                rng.choice(b"(.0123IJKLMNPQRSTUVXabcdeghijlopqrstu}]\x85\x86\x87\x88\x94\x8c\x8f\x90\x93\x95")
                for _ in range(rng.randrange(60))
            )
            + b"."
        )
    elif kind == "memo":
        data = b"\x80\x02]r" + rng.choice((0x7FFFFFFF, 0xFFFFFFFF, 1 << 20)).to_bytes(4, "little") + b"."
    elif kind == "deep":
        data = (
            rng.choice(
                (b"]" * 100_000 + b"a" * 99_999, b"(" * 1_000_000, b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little"))
            )
            + b"."
        )
    else:
        data, kind = mutate(
            rng,
            pickle.dumps(
                {n: [c.split()] for n, c in zip(NAMES, _CAPTIONS, strict=True)}, protocol=rng.choice((0, 2, 4))
            ),
        )
    path.write_bytes(data)
    return kind, _judge(path, read_plain_pickle, None, folder, [path.name])


def _file(
    rng: random.Random,
    folder: Path,
    kind: str,
    name: str,
    data: bytes,
    read: Callable[[Path], Any],
    names: list[str] | None = None,
) -> tuple[str, Judged]:
    path = folder / name
    path.write_bytes(data)
    is_binary = name.endswith(".pkl")
    if rng.random() < 0.1 and not is_binary:
        before = repr(read(path))
        changed, how = harmless(rng, data)
        path.write_bytes(changed)
        return f"{kind}: harmless {how}", _judge(path, read, before, folder, names or [name])
    changed, how = (mutate if is_binary else damage)(rng, data)
    path.write_bytes(changed)
    return f"{kind}, {name}: {how}", _judge(path, read, None, folder, names or [name])


def _judge(path: Path, read: Callable[[Path], Any], before: str | None, folder: Path, names: list[str]) -> Judged:
    there = set(os.listdir(folder))  # noqa: PTH208 - names with odd bytes
    try:
        value = attempt(lambda: read(path), names)
    except Stopped as stopped:
        judged = stopped.judged
        if before is not None and judged.outcome == "error":
            judged = Judged("crash", f"harmless, and refused: {judged.detail}")
    else:
        judged = Judged("read" if before is None else "equal" if repr(value) == before else "silent")
    if set(os.listdir(folder)) - there:  # noqa: PTH208
        return Judged("crash", "reading it made a file: something of it was run")
    return judged


class _Runs:
    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def _hostile_pickle(rng: random.Random, folder: Path) -> bytes:
    target = str(folder / "owned")
    call = rng.choice(
        (
            _Runs(os.system, (f"touch '{target}'",)),
            _Runs(eval, (f"open({target!r}, 'w')",)),
            _Runs(os.mkdir, (target,)),
            _Runs(io.FileIO, (target, "w")),
            _Runs(bytearray, (1 << 40,)),
        )
    )
    return pickle.dumps(rng.choice((call, {"clip0": [call]}, [call] * 3)), protocol=rng.choice((0, 1, 2, 3, 4, 5)))


# each line names the one before nine times: a few hundred bytes that would be a billion words
_LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
_YAML = (
    "!!python/object/apply:os.system ['touch owned']\n",
    "!!python/object/new:os.mkdir ['owned']\n",
    "x: !!python/name:os.system\n",
    _LAUGHS,
    "a: &a\n  b: *a\n",
    "data: {train: &t [*t]}\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "<<: *nothing\n",
    "- 1\n- 2\n",
    "--- a\n--- b\n",
    "%YAML 9.9\n---\na: b\n",
    "a: !!binary 'x'\n",
    "a: !!timestamp '2001'\n",
    "data: [1, 2\n",
    "'a\n",
    "\ta: b\n",
    "optim: {lr: .inf}\n",
    "optim: {lr: .nan}\n",
    "optim: {epochs: 99999999999999999999999999}\n",
    "side: {width: 1e308}\n",
    "1: 2\n",
    "null: 2\n",
    "true: 2\n",
    "data: null\n",
    "data: {train: null}\n",
    "data:\n  batch_size: " + "9" * 5000 + "\n",
)

CASES: dict[str, tuple[int, Case]] = {
    "text: lists of clips": (7, lists),
    "text: class names": (2, class_names),
    "text: captions": (8, captions),
    "text: recipes": (4, recipes),
    "text: pickles": (2, pickles),
}
