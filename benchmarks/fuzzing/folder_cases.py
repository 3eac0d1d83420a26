"""Damaged folders of ours and damaged weights: runs, checkpoints of others, feature caches, libraries of footage.

Each must be read as it is, or be an error of ours that names a file or the folder. Weights that come out of a damaged
file must be the file's: for safetensors the header says where they are, and a `.pt` has checksums.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fuzzing.bases import Bases
from fuzzing.bytes_mutations import mutate
from fuzzing.outcome import Judged, Stopped, attempt
from fuzzing.text_mutations import damage
from side4video.backbones.weights import read_weights
from side4video.build import build_backbone, build_model, load_run, resolve_settings
from side4video.cache.key import CacheKey
from side4video.cache.store import BrokenItem, CacheFolder, CacheReader, Item
from side4video.config.load import load_settings
from side4video.official.read import open_checkpoint
from side4video.search.embedding import EmbeddedWindow, WindowSettings
from side4video.search.footage import FileState
from side4video.search.library import LibraryIdentity, make_library, open_library
from side4video.training.checkpoint import RunFolder

from run.retrieval_runs import write_retrieval_run  # isort: skip

Case = Callable[[random.Random, Path, Bases], tuple[str, Judged]]
EMBED_DIM, NUM_FRAMES = 16, 3
_TEXTS = (".json", ".jsonl", ".yaml", ".csv", ".txt")
KEY = CacheKey(
    backbone_hash="0" * 64, tokens_precision="float32", quantise="none", cache_precision="own", image_size=(8, 12),
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", taps=(0, 2), last="none", depth=4, data="d",
    num_records=5, num_frames=NUM_FRAMES, sampling="s", transform="t", views=0, clips_per_view=1, seed=None,
)  # fmt: skip


def warm(work: Path) -> None:
    """Make the undamaged folders once."""
    base = work / "folders"
    if (base / "done").exists():
        return
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    _write_run(base / "recognition")
    write_retrieval_run(base / "retrieval")
    _write_cache(base / "cache")
    for kind in ("flat", "qdrant-edge"):
        pid = os.fork()  # the database's threads do not survive the forks that follow
        if pid == 0:
            status = 1
            try:
                _write_library(base / f"library-{kind}", kind)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, f"no library of kind {kind}"
    _write_weights(base / "weights")
    (base / "done").touch()


def runs(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """A run folder, of recognition or retrieval, loaded whole."""
    run = _copy(bases, rng.choice(("recognition", "recognition", "retrieval")), folder / "run")
    (run / "config.yaml").write_text((run / "config.yaml").read_text())
    name = _spoil(rng, run)

    def read() -> None:
        load_run(run)
        RunFolder(run).load_state()

    return f"{run.name}: {name}", _judged(read, run, folder)


def weights(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """A checkpoint of somebody else, as `convert` and `backbone.weights` read it."""
    names = sorted(os.listdir(bases.folder / "folders" / "weights"))  # noqa: PTH208
    source = bases.folder / "folders" / "weights" / rng.choice(names)
    path = folder / source.name
    data, kind = source.read_bytes(), "attack"
    if rng.random() < 0.25:
        data = _attack(rng, folder)
        path = folder / rng.choice(("model.pt", "model.pth", "model.bin", "model.safetensors"))
    elif path.suffix == ".pt" and rng.random() < 0.4:
        data, kind = _spoil_inside(rng, data)
    else:
        data, kind = mutate(rng, data)
    path.write_bytes(data)
    read: Any = rng.choice((open_checkpoint, read_weights))
    judged = _judged(lambda: read(path), path, folder)
    if judged.outcome == "read" and kind == "attack":
        judged = Judged("silent", "hostile weights were read")
    return f"{path.name}: {kind}", judged


def caches(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """A feature cache; what is read must be what was written, whatever was damaged."""
    cache = _copy(bases, "cache", folder / "cache")
    name = _spoil(rng, cache)

    def read() -> list[Any]:
        opened = CacheFolder(cache, KEY, bytes_per_clip=1)
        if opened.missing_shards():
            return []
        reader = CacheReader(opened)
        return [reader.read(number) for number in range(KEY.num_items)]

    try:
        items = attempt(read, [cache, *cache.iterdir()])
    except Stopped as stopped:
        return name, stopped.judged
    for number, item in enumerate(items):
        if isinstance(item, Item) and not all(
            torch.equal(tensor, _cached(number)[key]) for key, tensor in item.tensors.items()
        ):
            return name, Judged("silent", f"item {number} is another")
    return name, Judged("read")


def libraries(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """A library of footage, in the flat store or the database; windows that are read must be those that were put in."""
    kind = rng.choice(("flat", "flat", "qdrant-edge"))
    library = _copy(bases, f"library-{kind}", folder / "library")
    name = _spoil(rng, library)
    known = {f"v{video}.mp4": _embedded(video) for video in range(3)}

    def read() -> str:
        with open_library(library) as opened:
            dict(opened.entries)
            for batch in opened.store.scan(with_frames=True):
                for found in batch:
                    path, number, frames_TE = found.window.path, found.window.number, found.frames_TE
                    wanted = known[path][number].frames_TE if path in known and number < 2 else None
                    if wanted is None or frames_TE is None or frames_TE.shape != wanted.shape:
                        return f"{path} {number} was never stored so"
                    if not torch.allclose(frames_TE, wanted, atol=1e-4):
                        return f"the vectors of {path} {number} are others"
        return ""

    try:
        wrong = attempt(read, [library, *library.rglob("*")])
    except Stopped as stopped:
        return f"{kind}: {name}", stopped.judged
    # the flat store has no checksums of vectors, nor has the database: see docs/trust.md
    return f"{kind}: {name}", Judged("read", wrong, {"library_values_changed": 1} if wrong else {})


def _judged(read: Callable[[], Any], path: Path, folder: Path) -> Judged:
    names = [path, *(path.rglob("*") if path.is_dir() else ())]
    there = set(os.listdir(folder))  # noqa: PTH208
    try:
        attempt(read, names)
        judged = Judged("read")
    except Stopped as stopped:
        judged = stopped.judged
    if set(os.listdir(folder)) - there:  # noqa: PTH208
        return Judged("crash", "reading it made a file: something of it was run")
    return judged


def _copy(bases: Bases, name: str, into: Path) -> Path:
    return Path(shutil.copytree(bases.folder / "folders" / name, into))


def _spoil(rng: random.Random, folder: Path) -> str:
    """Damage, empty, exchange or remove one file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    kind = rng.choice(("damage", "damage", "damage", "damage", "remove", "empty", "folder", "exchange"))
    if kind == "damage":
        data = path.read_bytes()
        change = damage if path.suffix in _TEXTS and data else mutate
        data, kind = change(rng, data)
        path.write_bytes(data)
    elif kind == "remove":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(rng.choice(files).read_bytes())
    return f"{path.relative_to(folder)}: {kind}"


def _spoil_inside(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Damage one member of a `.pt` archive, and give it a right checksum."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if name.endswith(("data.pkl", "version", "byteorder"))] + names)
        for name in names:
            content = old.read(name)
            if name == chosen:
                content, _ = mutate(rng, content)
            new.writestr(name, content)
    return changed.getvalue(), f"inside {chosen.rpartition('/')[2]}"


class _Runs:
    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def _attack(rng: random.Random, folder: Path) -> bytes:
    """A checkpoint that wants something run, or an archive that becomes enormous."""
    target = str(folder / "owned")
    call = rng.choice(
        (
            _Runs(os.system, (f"touch '{target}'",)),
            _Runs(os.mkdir, (target,)),
            _Runs(eval, (f"open({target!r}, 'w')",)),
            _Runs(torch.load, (target,)),
        )
    )
    state = {"weight": torch.zeros(2, 3), "extra": call}
    kind = rng.choice(("new", "old", "bare", "zip bomb", "header"))
    into = io.BytesIO()
    if kind in ("new", "old"):
        torch.save(state, into, _use_new_zipfile_serialization=kind == "new")
        return into.getvalue()
    if kind == "bare":
        return pickle.dumps(call)
    if kind == "zip bomb":
        with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", bytes(200_000_000))
            archive.writestr("a/version", "3\n")
        return into.getvalue()
    text = b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    return rng.choice((len(text), 1 << 40, (1 << 64) - 1)).to_bytes(8, "little") + text


def _write_run(path: Path) -> None:
    tiny = {"backbone.name": "tiny-clip", "backbone.pretrained": False, "backbone.precision": "fp32", "side.width": 24}
    settings = load_settings(None, {**tiny, "data.num_frames": NUM_FRAMES, "train.accelerator": "cpu"})
    backbone, names = build_backbone(settings), ["grow", "slide-left", "slide-right"]
    folder = RunFolder(path)
    folder.begin(resolve_settings(settings, backbone), backbone, names)
    model = build_model(settings, names, backbone=backbone)
    folder.save_weights(model.trainable_state())
    folder.save_state(3, {"model": {"weight": torch.arange(6.0)}}, {"step": 3, "epoch": 1})


def _write_cache(path: Path) -> None:
    folder = CacheFolder(path, KEY, bytes_per_clip=100 * 2**20)
    folder.begin()
    for shard in range(folder.num_shards):
        items = {
            number: Item(_cached(number), (number % 3,), (), f"v{number}.mp4", False)
            for number in folder.items_of(shard)
        }
        last = max(items)
        broken = {**items, last: BrokenItem(f"v{last}.mp4", "no video stream")} if shard == 0 else items
        folder.write_shard(shard, broken, squares=[0.0, 1.0])


def _cached(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {
        "tap0": torch.randn(1, NUM_FRAMES, 4, 6, generator=generator),
        "pixels": torch.zeros(2, 5, dtype=torch.uint8),
    }


def _write_library(path: Path, kind: Any) -> None:
    model = {"backbone": "m", "backbone_hash": "0" * 64, "weights_hash": "1" * 64, "text_hash": None}
    identity = LibraryIdentity(model, WindowSettings(NUM_FRAMES, 2, 2.0))
    with make_library(path, identity, run=Path("run"), embed_dim=EMBED_DIM, kind=kind) as library:
        for video in range(3):
            library.add(f"v{video}.mp4", f"hash{video}", FileState(1000 + video, 5), _embedded(video))


def _embedded(video: int) -> list[EmbeddedWindow]:
    generator = torch.Generator().manual_seed(video)
    return [
        EmbeddedWindow(
            start_seconds=2.0 * place, end_seconds=2.0 * place + 2, fps=2.0, times=(0.0, 0.5, 1.0),
            frames_TE=torch.randn(NUM_FRAMES, EMBED_DIM, generator=generator),
        )
        for place in range(2)
    ]  # fmt: skip


def _write_weights(path: Path) -> None:
    path.mkdir()
    state = {f"blocks.{n}.weight": torch.randn(4, 5, generator=torch.Generator().manual_seed(n)) for n in range(3)}
    torch.save(state, path / "plain.pt")
    torch.save(
        {"model_state_dict": {f"module.{k}": v.half() for k, v in state.items()}, "epoch": 3}, path / "wrapped.pt"
    )
    torch.save(state, path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, path / "plain.safetensors")


CASES: dict[str, tuple[int, Case]] = {
    "folder: runs": (3, runs),
    "folder: weights": (4, weights),
    "folder: caches": (2, caches),
    "folder: libraries": (2, libraries),
}
