"""The default store: Qdrant's embedded database, in this process, in one folder.

Approximate search walks a graph over the windows' means, then ranks what it found by the frames. The graph is there
after `optimise`; before, and in small stores, every mean is compared.

What the database does not do by itself: an upsert reaches its write-ahead log, and this file syncs that log to the disk
before it returns; loading a folder that is not its own would write into it, so `store.json` is read first; and a field
index made after the graph would leave filtered searches without results, so indexes come with the empty store.

Shapes: T, frames of a window; E, joint width; Q, query tokens.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import qdrant_edge as edge
import torch
from torch import Tensor

from side4video.errors import StoreError
from side4video.search.layout import (
    DTYPES,
    FLOAT_FIELDS,
    FRAMES,
    KEYWORD_FIELDS,
    MEAN,
    check_delete,
    check_points,
    count_videos,
    join_frames,
    mean_direction,
    meets_nothing,
    payload_window,
    read_folder,
    read_vectors,
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
    WindowFilter,
    WindowPoint,
)
from side4video.training.files import sync_folder

KIND = "qdrant-edge"
_SHARD = "shard"
_FLUSH_WINDOWS = 4096  # how much of the log a crash leaves to be read again
_BATCH_NUMBERS = 1_000_000  # floats in one operation, so that it fits the log's segments
_WORKERS_SECONDS = 10.0  # how long workers of a killed process may hold its files
# what must stay free: the database writes into mapped files, and on a full disk the system ends a process that does so
_RESERVE_BYTES = 64 * 2**20
_DATATYPES = {"float32": edge.VectorStorageDatatype.Float32, "float16": edge.VectorStorageDatatype.Float16}


class QdrantEdgeStore:
    """`VectorStore` in an embedded Qdrant shard; see the module's docstring. Open it with `stores.open_store`."""

    def __init__(self, folder: Path, *, wait_seconds: float = 0.0) -> None:
        self._folder = folder
        self._lock = FolderLock(folder).acquire(wait_seconds)
        try:
            kind, self._identity = read_folder(folder)
            if kind != KIND:
                raise StoreError(f"{folder} holds a {kind} store, not a {KIND} one")
            self._shard = _load(folder / _SHARD)
        except BaseException:
            self._lock.release()
            raise
        self._unflushed = 0
        self._closed = False

    @staticmethod
    def fill(folder: Path, identity: StoreIdentity) -> None:
        """The files of an empty store.

        Raises:
            StoreError: the disk is full, or nearly so.
        """
        _check_room(folder, 0)
        (folder / _SHARD).mkdir()
        shard = edge.EdgeShard.create(str(folder / _SHARD), _config(identity))
        for name in KEYWORD_FIELDS:
            shard.update(edge.UpdateOperation.create_field_index(name, edge.PayloadSchemaType.Keyword))
        for name in FLOAT_FIELDS:
            shard.update(edge.UpdateOperation.create_field_index(name, edge.PayloadSchemaType.Float))
        shard.flush()
        shard.close()

    @property
    def identity(self) -> StoreIdentity:
        """As `VectorStore.identity`."""
        return self._identity

    def upsert(self, points: Sequence[WindowPoint]) -> None:
        """As `VectorStore.upsert`."""
        _check_room(self._folder, sum(4 * point.frames_TE.numel() for point in points))
        batch: list[edge.Point] = []
        numbers = 0
        for window_id, point in check_points(points, self._identity.embed_dim).items():
            directions_TE, norms_T = split_frames(point.frames_TE)
            # rounded here, so that every store keeps the same numbers
            directions_TE = directions_TE.to(DTYPES[self._identity.precision]).float()
            vectors = {MEAN: mean_direction(point.frames_TE).tolist(), FRAMES: directions_TE.tolist()}
            batch.append(edge.Point(window_id, cast("Any", vectors), window_payload(point.window, norms_T)))
            numbers += directions_TE.numel()
            if numbers > _BATCH_NUMBERS:
                self._update(edge.UpdateOperation.upsert_points(batch))
                batch, numbers = [], 0
        if batch:
            self._update(edge.UpdateOperation.upsert_points(batch))
        self._unflushed += len(points)
        if self._unflushed >= _FLUSH_WINDOWS:
            self._flush()

    def delete(self, where: WindowFilter) -> None:
        """As `VectorStore.delete`."""
        check_delete(where)
        condition = None if meets_nothing(where) else _filter(where)
        if condition is not None:
            _check_room(self._folder, 0)
            self._update(edge.UpdateOperation.delete_points_by_filter(condition))

    def search(
        self,
        query: VectorQuery,
        *,
        limit: int,
        where: WindowFilter | None = None,
        with_frames: bool = False,
        exact: bool = False,
        effort: SearchEffort | None = None,
    ) -> list[FoundWindow]:
        """As `VectorStore.search`."""
        if meets_nothing(where):
            return []
        effort = effort or SearchEffort()
        by_mean = edge.Query.Nearest(mean_direction(query.mean_E.unsqueeze(0)).tolist(), using=MEAN)
        params = edge.SearchParams(hnsw_ef=effort.ef, exact=exact)
        condition = _filter(where)
        # the stub gives Query an Enum's constructor; its static methods return a query
        nearest, prefetches = cast("Any", by_mean), cast("list[edge.Prefetch]", [])
        if query.tokens_QE is not None:
            if not exact:
                size = max(limit, effort.prefetch)
                prefetches = [edge.Prefetch(limit=size, query=nearest, params=params, filter=condition)]
            tokens_QE = query.tokens_QE.detach().to("cpu", torch.float32)
            nearest = cast("Any", edge.Query.Nearest(tokens_QE.tolist(), using=FRAMES))
        with _edge_errors(self._folder):
            points = self._shard.query(
                edge.QueryRequest(
                    limit=limit,
                    query=nearest,
                    prefetches=prefetches,
                    filter=condition,
                    params=params,
                    with_payload=True,
                    with_vector=[FRAMES] if with_frames else False,
                )
            )
        return [_found(point, with_frames=with_frames, score=point.score) for point in points]

    def fetch(self, ids: Sequence[str], *, with_frames: bool = False) -> list[FoundWindow]:
        """As `VectorStore.fetch`."""
        with _edge_errors(self._folder):
            records = self._shard.retrieve(list(ids), with_payload=True, with_vector=[FRAMES] if with_frames else False)
        found = {str(record.id): _found(record, with_frames=with_frames) for record in records}
        return [found[i] for i in ids if i in found]

    def scan(
        self, where: WindowFilter | None = None, *, with_frames: bool = False, batch_size: int = 256
    ) -> Iterator[list[FoundWindow]]:
        """As `VectorStore.scan`."""
        offset: Any = None
        while not meets_nothing(where):
            request = edge.ScrollRequest(
                offset=offset,
                limit=batch_size,
                filter=_filter(where),
                with_payload=True,
                with_vector=[FRAMES] if with_frames else False,
            )
            with _edge_errors(self._folder):
                records, offset = self._shard.scroll(request)
            if records:
                yield [_found(record, with_frames=with_frames) for record in records]
            if offset is None:
                return

    def videos(self) -> list[StoredVideo]:
        """As `VectorStore.videos`."""
        return count_videos(found.window for batch in self.scan(batch_size=4096) for found in batch)

    def count(self, where: WindowFilter | None = None) -> int:
        """As `VectorStore.count`."""
        if meets_nothing(where):
            return 0
        with _edge_errors(self._folder):
            return self._shard.count(edge.CountRequest(exact=True, filter=_filter(where)))

    def optimise(self) -> None:
        """As `VectorStore.optimise`."""
        _check_room(self._folder, sum(512 * p.stat().st_blocks for p in (self._folder / _SHARD).rglob("*")))
        with _edge_errors(self._folder):
            self._shard.optimize()
        self._flush()

    def close(self) -> None:
        """As `VectorStore.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            self._flush()
            self._shard.close()
        finally:
            self._lock.release()

    def _update(self, operation: edge.UpdateOperation) -> None:
        with _edge_errors(self._folder):
            self._shard.update(operation)
        log = self._folder / _SHARD / "wal"
        # the database makes its next log file in the background and renames it: then the new name must be seen, too
        while not all(_synced(path) for path in log.iterdir()):
            pass
        sync_folder(log)

    def _flush(self) -> None:
        with _edge_errors(self._folder):
            self._shard.flush()
        self._unflushed = 0


@contextmanager
def _edge_errors(folder: Path) -> Generator[None]:
    """The database raises plain `Exception`, whatever went wrong."""
    try:
        yield
    except (StoreError, MemoryError, TypeError):
        raise
    except BaseException as error:
        if not _is_databases(error):
            raise
        raise StoreError(f"{folder}: the database says: {error}") from None


def _check_room(folder: Path, num_bytes: int) -> None:
    """Refuse to write where there is too little room.

    Raises:
        StoreError: fewer bytes are free than twice what is to be written, and a reserve.
    """
    free, needed = shutil.disk_usage(folder).free, 2 * num_bytes + _RESERVE_BYTES
    if free < needed:
        raise StoreError(
            f"{folder}: the disk is full: {free / 1e6:.1f} MB are free, and the database needs {needed / 1e6:.1f} MB; "
            "what is in the store stays"
        )


def _is_databases(error: BaseException) -> bool:
    """Whether it is an error of the database's; where its files are damaged it may panic, which is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _config(identity: StoreIdentity) -> edge.EdgeConfig:
    graph = edge.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=10_000)
    # frames are ranked, never searched: no graph over them
    no_graph = edge.HnswIndexConfig(m=0, ef_construct=16, full_scan_threshold=10_000)
    return edge.EdgeConfig(
        vectors={
            MEAN: edge.EdgeVectorParams(identity.embed_dim, edge.Distance.Dot, hnsw_config=graph),
            FRAMES: edge.EdgeVectorParams(
                identity.embed_dim,
                edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                datatype=_DATATYPES[identity.precision],
                hnsw_config=no_graph,
            ),
        }
    )


def _load(shard: Path) -> edge.EdgeShard:
    """The database's part of the folder.

    Raises:
        StoreError: it is damaged, or workers of a killed process still hold it.
    """
    if not (shard / "edge_config.json").is_file() or not (shard / "segments").is_dir():
        raise StoreError(f"{shard}: damaged: the database's files are not there; left as it is")
    deadline = time.monotonic() + _WORKERS_SECONDS
    while True:
        try:
            return edge.EdgeShard.load(str(shard))
        except BaseException as error:  # the database raises nothing more precise
            if not _is_databases(error):
                raise
            if "WouldBlock" not in str(error):
                raise StoreError(f"{shard}: damaged: the database says: {error}") from None
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{shard} is still held by another process, perhaps a worker of one that was killed: end it"
                ) from None
        time.sleep(0.1)


def _synced(path: Path) -> bool:
    """Whether the file was there to be written out for good."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _filter(where: WindowFilter | None) -> edge.Filter | None:
    """`where` in the database's terms."""
    if where is None or where.is_empty:
        return None
    must: list[Any] = []
    for key, names in (("path", where.paths), ("folders", where.folders), ("content_hash", where.content_hashes)):
        if names is not None:
            must.append(edge.FieldCondition(key, match=edge.MatchAny(sorted(names))))
    if where.after_seconds is not None:
        must.append(edge.FieldCondition("end_seconds", range=edge.RangeFloat(gt=where.after_seconds)))
    if where.before_seconds is not None:
        must.append(edge.FieldCondition("start_seconds", range=edge.RangeFloat(lt=where.before_seconds)))
    must_not: list[Any] = []
    if where.except_hashes:
        must_not.append(edge.FieldCondition("content_hash", match=edge.MatchAny(sorted(where.except_hashes))))
    return edge.Filter(must=must, must_not=must_not)


def _found(record: edge.Record | edge.ScoredPoint, *, with_frames: bool, score: float = 0.0) -> FoundWindow:
    window, norms_T = payload_window(record.payload or {})
    frames_TE: Tensor | None = None
    if with_frames:
        rows = cast("dict[str, Any]", record.vector or {}).get(FRAMES)
        if not rows or len(rows) != len(norms_T):
            raise StoreError(f"damaged: {window.path}, window {window.number}, has lost its frame vectors")
        frames_TE = join_frames(read_vectors(rows), norms_T)
    return FoundWindow(window, score, frames_TE)
