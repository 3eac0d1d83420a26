"""A store without a database: tensors in files, every search compares with every window.

Slow on large libraries and exact on all, it is the fallback where the embedded database cannot run, and the truth that
the tests hold the other stores to.

A folder holds shards (safetensors, written once) and `log.jsonl`. An upsert writes a shard and then one log line; the
line is what counts. A line that a crash cut short is not there, and neither is a shard without a line. `optimise`
writes the living windows into new shards and then replaces the log.

Shapes: T, frames of a window; E, joint width; Q, query tokens; R, frames of all windows in a shard; V, windows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from side4video.errors import StoreError
from side4video.search.layout import (
    DTYPES,
    check_delete,
    check_points,
    count_videos,
    join_frames,
    mean_direction,
    payload_window,
    read_folder,
    split_frames,
    window_payload,
)
from side4video.search.lock import FolderLock
from side4video.search.store import (
    FoundWindow,
    SearchEffort,
    StoredVideo,
    StoreIdentity,
    VectorQuery,
    Window,
    WindowFilter,
    WindowPoint,
)
from side4video.training.files import sync_folder, write_bytes, write_tensors

KIND = "flat"
_LOG = "log.jsonl"
_SHARD_WINDOWS = 4096
_SHARD_NAME = re.compile(r"\d{8}\.safetensors(\.partial)?")


@dataclass(frozen=True)
class _Row:
    """Where a living window lies: its shard, its place among the windows there, and its first frame."""

    window: Window
    norms_T: Tensor
    shard: str
    place: int
    start: int


@dataclass(frozen=True)
class _Shard:
    """Tensors of a shard, mapped from its file; `num_frames_V` of the frames belong to each window in turn."""

    directions_RE: Tensor
    mean_VE: Tensor
    num_frames_V: Tensor


class FlatStore:
    """`VectorStore` in plain files; see the module's docstring. Open it with `stores.open_store`."""

    def __init__(self, folder: Path, *, wait_seconds: float = 0.0) -> None:
        self._folder = folder
        self._lock = FolderLock(folder).acquire(wait_seconds)
        try:
            kind, self._identity = read_folder(folder)
            if kind != KIND:
                raise StoreError(f"{folder} holds a {kind} store, not a {KIND} one")
            self._shards: dict[str, _Shard] = {}
            self._rows: dict[str, _Row] = {}
            self._open_log()
        except BaseException:
            self._lock.release()
            raise

    @staticmethod
    def fill(folder: Path, identity: StoreIdentity) -> None:  # noqa: ARG004
        """The files of an empty store."""
        write_bytes(folder / _LOG, b"")

    @property
    def identity(self) -> StoreIdentity:
        """As `VectorStore.identity`."""
        return self._identity

    def upsert(self, points: Sequence[WindowPoint]) -> None:
        """As `VectorStore.upsert`."""
        unique = list(check_points(points, self._identity.embed_dim).values())
        for first in range(0, len(unique), _SHARD_WINDOWS):
            batch = unique[first : first + _SHARD_WINDOWS]
            items = [(p.window, *split_frames(p.frames_TE), mean_direction(p.frames_TE)) for p in batch]
            self._append(self._write_shard(items))

    def delete(self, where: WindowFilter) -> None:
        """As `VectorStore.delete`."""
        check_delete(where)
        doomed = [window_id for window_id, row in self._rows.items() if where.meets(row.window)]
        if doomed:
            self._append({"op": "delete", "ids": doomed})

    def search(
        self,
        query: VectorQuery,
        *,
        limit: int,
        where: WindowFilter | None = None,
        with_frames: bool = False,
        exact: bool = False,  # noqa: ARG002 - always
        effort: SearchEffort | None = None,  # noqa: ARG002
    ) -> list[FoundWindow]:
        """As `VectorStore.search`; always exact."""
        candidates: list[_Row] = []
        scores: list[Tensor] = []
        by_shard: dict[str, list[_Row]] = {}
        for row in self._rows.values():
            if where is None or where.meets(row.window):
                by_shard.setdefault(row.shard, []).append(row)
        for shard, rows in by_shard.items():
            candidates += rows
            scores.append(self._scores(query, self._shards[shard])[torch.tensor([row.place for row in rows])])
        if not candidates:
            return []
        best = torch.cat(scores).topk(min(limit, len(candidates)))
        found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [self._found(candidates[i], with_frames=with_frames, score=score) for score, i in found]

    def fetch(self, ids: Sequence[str], *, with_frames: bool = False) -> list[FoundWindow]:
        """As `VectorStore.fetch`."""
        return [self._found(self._rows[i], with_frames=with_frames) for i in ids if i in self._rows]

    def scan(
        self, where: WindowFilter | None = None, *, with_frames: bool = False, batch_size: int = 256
    ) -> Iterator[list[FoundWindow]]:
        """As `VectorStore.scan`."""
        rows = [row for row in self._rows.values() if where is None or where.meets(row.window)]
        for first in range(0, len(rows), batch_size):
            yield [self._found(row, with_frames=with_frames) for row in rows[first : first + batch_size]]

    def videos(self) -> list[StoredVideo]:
        """As `VectorStore.videos`."""
        return count_videos(row.window for row in self._rows.values())

    def count(self, where: WindowFilter | None = None) -> int:
        """As `VectorStore.count`."""
        return sum(where is None or where.meets(row.window) for row in self._rows.values())

    def optimise(self) -> None:
        """As `VectorStore.optimise`: rewrites the living windows into few shards and drops the others' room."""
        rows = list(self._rows.values())
        lines: list[dict[str, Any]] = []
        for first in range(0, len(rows), _SHARD_WINDOWS):
            batch = rows[first : first + _SHARD_WINDOWS]
            items = [(r.window, self._directions(r), r.norms_T, self._shards[r.shard].mean_VE[r.place]) for r in batch]
            lines.append(self._write_shard(items))
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._log.close()
        write_bytes(self._folder / _LOG, content.encode())
        self._open_log()

    def close(self) -> None:
        """As `VectorStore.close`."""
        self._log.close()
        self._shards.clear()
        self._rows.clear()
        self._lock.release()

    def _open_log(self) -> None:
        """Read the log, drop a line that a crash cut short, and remove shards that no line names."""
        path = self._folder / _LOG
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}; left as it is") from None
        whole = content.rfind(b"\n") + 1
        self._shards, self._rows = {}, {}
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                self._replay(cast("dict[str, Any]", json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                reason = error if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
                raise StoreError(f"{path}, line {number}: damaged: {reason}; left as it is") from None
        self._log: IO[bytes] = path.open("r+b")
        self._log.truncate(whole)
        self._log.seek(whole)
        for shard in self._shard_files():
            if shard.name not in self._shards:
                shard.unlink()
        self._last_shard = max((int(name.split(".")[0]) for name in self._shards), default=0)

    def _append(self, line: dict[str, Any]) -> None:
        """Make `line` count: first on the disk, then here."""
        end = self._log.tell()
        try:
            self._log.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._log.flush()
            os.fsync(self._log.fileno())
        except OSError as error:
            self._log.truncate(end)
            self._log.seek(end)
            raise StoreError(f"{self._folder / _LOG}: cannot be written: {error.strerror or error}") from None
        self._replay(line)

    def _replay(self, line: dict[str, Any]) -> None:
        if line["op"] == "delete":
            for window_id in line["ids"]:
                self._rows.pop(window_id, None)
            return
        if line["op"] != "add":
            raise StoreError(f"unknown operation {line['op']!r}")
        name = str(line["shard"])
        stored = [payload_window(payload) for payload in line["windows"]]
        self._shards[name] = self._map_shard(name, [len(norms_T) for _, norms_T in stored])
        start = 0
        for place, (window, norms_T) in enumerate(stored):
            self._rows[window.id] = _Row(window, norms_T, name, place, start)
            start += len(norms_T)

    def _map_shard(self, name: str, num_frames: list[int]) -> _Shard:
        path = self._folder / name
        try:
            with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
                tensors = {key: cast("Tensor", file.get_tensor(key)) for key in ("directions", "mean")}
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{path}: {error}") from None
        shard = _Shard(tensors["directions"], tensors["mean"], torch.tensor(num_frames))
        if sum(num_frames) != len(shard.directions_RE) or len(num_frames) != len(shard.mean_VE):
            raise StoreError(f"{name} does not hold what the log says")
        return shard

    def _shard_files(self) -> list[Path]:
        """Our shards and the beginnings of them; other files are not ours to touch."""
        return [path for path in self._folder.iterdir() if _SHARD_NAME.fullmatch(path.name)]

    def _write_shard(self, items: list[tuple[Window, Tensor, Tensor, Tensor]]) -> dict[str, Any]:
        """Write windows with directions, lengths and mean as a shard; the log line that makes them count."""
        self._last_shard += 1
        name = f"{self._last_shard:08d}.safetensors"
        directions_RE = torch.cat([directions_TE for _, directions_TE, _, _ in items])
        tensors = {
            "directions": directions_RE.to(DTYPES[self._identity.precision]),
            "mean": torch.stack([mean_E for _, _, _, mean_E in items]),
        }
        try:
            write_tensors(self._folder / name, tensors)
            sync_folder(self._folder)
        except OSError as error:
            raise StoreError(f"{self._folder / name}: cannot be written: {error.strerror or error}") from None
        return {"op": "add", "shard": name, "windows": [window_payload(w, norms_T) for w, _, norms_T, _ in items]}

    def _directions(self, row: _Row) -> Tensor:
        return self._shards[row.shard].directions_RE[row.start : row.start + len(row.norms_T)]

    @staticmethod
    def _scores(query: VectorQuery, shard: _Shard) -> Tensor:
        """`score_V` of every window of a shard, living or not."""
        if query.tokens_QE is None:
            return shard.mean_VE @ mean_direction(query.mean_E.unsqueeze(0))
        cosine_RQ = shard.directions_RE.float() @ query.tokens_QE.detach().to("cpu", torch.float32).T
        return torch.segment_reduce(cosine_RQ, "max", lengths=shard.num_frames_V).sum(1)

    def _found(self, row: _Row, *, with_frames: bool, score: float = 0.0) -> FoundWindow:
        frames_TE = join_frames(self._directions(row), row.norms_T) if with_frames else None
        return FoundWindow(row.window, score, frames_TE)
