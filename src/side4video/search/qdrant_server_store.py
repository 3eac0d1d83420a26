"""A store on a Qdrant server or cluster, in the same layout as the embedded one.

The collection holds one point more than there are windows: a point without vectors whose payload is what `store.json`
is for a folder. Several processes may read and write at once; the server orders them. The API key comes from the
environment variable `QDRANT_API_KEY`, never from the address.

Shapes: T, frames of a window; E, joint width; Q, query tokens.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import torch
from torch import Tensor

from side4video.errors import MissingExtraError, StoreError
from side4video.search.layout import (
    DTYPES,
    FLOAT_FIELDS,
    FORMAT,
    FRAMES,
    KEYWORD_FIELDS,
    LAYOUT,
    MEAN,
    check_delete,
    check_points,
    count_videos,
    join_frames,
    mean_direction,
    meets_nothing,
    parse_meta,
    payload_window,
    read_vectors,
    split_frames,
    window_payload,
)
from side4video.search.store import (
    FoundWindow,
    SearchEffort,
    StoredVideo,
    StoreIdentity,
    VectorQuery,
    WindowFilter,
    WindowPoint,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

KIND = "qdrant-server"
API_KEY_VARIABLE = "QDRANT_API_KEY"
OLDEST_SERVER = (1, 10)  # the first with multi-vectors and the query interface
_META_ID = str(uuid.UUID(int=0x51DE4))
_BATCH_NUMBERS = 400_000  # floats in one request: about 8 MB of JSON, a quarter of what servers take
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.5
_TRANSIENT = (429, 502, 503, 504)
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class QdrantServerStore:
    """`VectorStore` in a collection of a server. Open it with `stores.open_store`.

    `client` is a connected client and `where` how messages call the server. With `identity` the collection is made
    when it is not there.

    Raises:
        StoreError: no such collection, somebody else's, one of a newer layout, or a server that does not answer.
    """

    def __init__(
        self, client: QdrantClient, *, where: str, collection: str, identity: StoreIdentity | None = None
    ) -> None:
        self._client = client
        self._where = where
        self._collection = collection
        self._models = _import_models()
        if identity is not None:
            self._make(identity)
        elif not self._call(lambda: client.collection_exists(collection)):
            raise StoreError(f"{where} has no collection {collection!r}: index into it first, or name another")
        records = self._call(lambda: client.retrieve(collection, [_META_ID], with_payload=True))
        if not records:
            raise StoreError(
                f"{where}: collection {collection!r} is not a side4video vector store; left as it is: name another"
            )
        _, self._identity = parse_meta((records[0].payload or {}).get("store"), f"{where}, collection {collection!r}")

    @property
    def identity(self) -> StoreIdentity:
        """As `VectorStore.identity`."""
        return self._identity

    def upsert(self, points: Sequence[WindowPoint]) -> None:
        """As `VectorStore.upsert`; what a power cut leaves is the server's promise."""
        batch: list[models.PointStruct] = []
        numbers = 0
        for window_id, point in check_points(points, self._identity.embed_dim).items():
            directions_TE, norms_T = split_frames(point.frames_TE)
            # rounded here, so that every store keeps the same numbers
            directions_TE = directions_TE.to(DTYPES[self._identity.precision]).float()
            vectors = {MEAN: mean_direction(point.frames_TE).tolist(), FRAMES: directions_TE.tolist()}
            payload = window_payload(point.window, norms_T)
            batch.append(self._models.PointStruct(id=window_id, vector=cast("Any", vectors), payload=payload))
            numbers += directions_TE.numel()
            if numbers > _BATCH_NUMBERS:
                self._send(batch)
                batch, numbers = [], 0
        if batch:
            self._send(batch)

    def delete(self, where: WindowFilter) -> None:
        """As `VectorStore.delete`."""
        check_delete(where)
        if not meets_nothing(where):
            selector = self._models.FilterSelector(filter=self._filter(where))
            self._call(lambda: self._client.delete(self._collection, selector, wait=True))

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
        condition = self._filter(where)
        params = self._models.SearchParams(hnsw_ef=effort.ef, exact=exact)
        nearest: Any = mean_direction(query.mean_E.unsqueeze(0)).tolist()
        using, prefetch = MEAN, None
        if query.tokens_QE is not None:
            if not exact:
                size = max(limit, effort.prefetch)
                prefetch = self._models.Prefetch(query=nearest, using=MEAN, limit=size, filter=condition, params=params)
            nearest, using = query.tokens_QE.detach().to("cpu", torch.float32).tolist(), FRAMES
        answer = self._call(
            lambda: self._client.query_points(
                self._collection,
                query=nearest,
                using=using,
                prefetch=prefetch,
                query_filter=condition,
                search_params=params,
                limit=limit,
                with_payload=True,
                with_vectors=[FRAMES] if with_frames else False,
            )
        )
        return [_found(point, with_frames=with_frames, score=point.score) for point in answer.points]

    def fetch(self, ids: Sequence[str], *, with_frames: bool = False) -> list[FoundWindow]:
        """As `VectorStore.fetch`."""
        vectors = [FRAMES] if with_frames else False
        records = self._call(
            lambda: self._client.retrieve(self._collection, list(ids), with_payload=True, with_vectors=vectors)
        )
        found = {str(record.id): _found(record, with_frames=with_frames) for record in records}
        return [found[i] for i in ids if i in found]

    def scan(
        self, where: WindowFilter | None = None, *, with_frames: bool = False, batch_size: int = 256
    ) -> Iterator[list[FoundWindow]]:
        """As `VectorStore.scan`."""
        offset: Any = None
        while not meets_nothing(where):
            records, offset = self._scroll(where, offset, batch_size, with_frames=with_frames)
            if records:
                yield [_found(record, with_frames=with_frames) for record in records]
            if offset is None:
                return

    def videos(self) -> list[StoredVideo]:
        """As `VectorStore.videos`."""
        return count_videos(found.window for batch in self.scan(batch_size=2048) for found in batch)

    def count(self, where: WindowFilter | None = None) -> int:
        """As `VectorStore.count`."""
        if meets_nothing(where):
            return 0
        condition = self._filter(where)
        return self._call(lambda: self._client.count(self._collection, count_filter=condition, exact=True)).count

    def optimise(self) -> None:
        """As `VectorStore.optimise`: a server optimises by itself; this waits until it has nothing left to do."""
        while self._call(lambda: self._client.get_collection(self._collection)).status == "yellow":
            time.sleep(1.0)

    def close(self) -> None:
        """As `VectorStore.close`."""
        self._client.close()

    def _make(self, identity: StoreIdentity) -> None:
        """Make the collection, its indexes, and last the point that says it is ours; finish one that was begun."""
        client, models, name = self._client, self._models, self._collection
        if not self._call(lambda: client.collection_exists(name)):
            datatypes = {"float32": models.Datatype.FLOAT32, "float16": models.Datatype.FLOAT16}
            vectors = {
                MEAN: models.VectorParams(
                    size=identity.embed_dim,
                    distance=models.Distance.DOT,
                    hnsw_config=models.HnswConfigDiff(m=16, ef_construct=128),
                ),
                FRAMES: models.VectorParams(
                    size=identity.embed_dim,
                    distance=models.Distance.DOT,
                    datatype=datatypes[identity.precision],
                    multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                    # frames are ranked, never searched: no graph over them
                    hnsw_config=models.HnswConfigDiff(m=0),
                ),
            }
            self._call(lambda: client.create_collection(name, vectors_config=vectors))
        elif self._call(lambda: client.count(name, exact=True)).count > 0 or set(
            cast("dict[str, Any]", self._call(lambda: client.get_collection(name)).config.params.vectors or {})
        ) != {MEAN, FRAMES}:
            return  # not empty, or not of our making: the caller looks whose it is
        for field in KEYWORD_FIELDS:
            self._index(field, models.PayloadSchemaType.KEYWORD)
        for field in FLOAT_FIELDS:
            self._index(field, models.PayloadSchemaType.FLOAT)
        meta = {"format": FORMAT, "layout": LAYOUT, "kind": KIND, **asdict(identity)}
        self._send([models.PointStruct(id=_META_ID, vector={}, payload={"store": meta})])

    def _index(self, field: str, schema: models.PayloadSchemaType) -> None:
        self._call(lambda: self._client.create_payload_index(self._collection, field, field_schema=schema))

    def _send(self, points: list[models.PointStruct]) -> None:
        self._call(lambda: self._client.upsert(self._collection, points, wait=True))

    def _scroll(
        self, where: WindowFilter | None, offset: Any, limit: int, *, with_frames: bool
    ) -> tuple[list[models.Record], Any]:
        condition = self._filter(where)
        return self._call(
            lambda: self._client.scroll(
                self._collection,
                scroll_filter=condition,
                offset=offset,
                limit=limit,
                with_payload=True,
                with_vectors=[FRAMES] if with_frames else False,
            )
        )

    def _filter(self, where: WindowFilter | None) -> models.Filter:
        """`where` in the server's terms, and never the point that says whose collection this is."""
        models = self._models
        where = where or WindowFilter()
        must: list[Any] = []
        for key, names in (("path", where.paths), ("folders", where.folders), ("content_hash", where.content_hashes)):
            if names is not None:
                must.append(models.FieldCondition(key=key, match=models.MatchAny(any=sorted(names))))
        if where.after_seconds is not None:
            must.append(models.FieldCondition(key="end_seconds", range=models.Range(gt=where.after_seconds)))
        if where.before_seconds is not None:
            must.append(models.FieldCondition(key="start_seconds", range=models.Range(lt=where.before_seconds)))
        must_not: list[Any] = [models.HasIdCondition(has_id=[_META_ID])]
        if where.except_hashes:
            match = models.MatchAny(any=sorted(where.except_hashes))
            must_not.append(models.FieldCondition(key="content_hash", match=match))
        return models.Filter(must=must, must_not=must_not)

    def _call(self, request: Callable[[], Answer]) -> Answer:
        return call_server(request, self._where)


def connect(url: str, *, timeout_seconds: int = 60) -> QdrantClient:
    """A client for the server at `url`, after a first answer from it.

    Raises:
        StoreError: an address that is not one, no answer, refused, not a Qdrant server, or one that is too old.
        MissingExtraError: qdrant-client is not installed.
    """
    _import_models()
    from qdrant_client import QdrantClient

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StoreError(f"{url!r} is not an address of a server; it looks like http://host:6333")
    if parts.username or parts.password or parts.query:
        raise StoreError(f"a key does not belong into the address of {parts.hostname}: set {API_KEY_VARIABLE}")
    key = os.environ.get(API_KEY_VARIABLE) or None
    if key and parts.scheme == "http":
        _log.warning("%s: the API key travels unencrypted over http; use https outside this machine", url)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        client = QdrantClient(url=url, api_key=key, timeout=timeout_seconds, check_compatibility=False)
    version = call_server(client.info, url).version
    try:
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
    except ValueError:
        raise StoreError(f"{url} is not a Qdrant server: its version cannot be read") from None
    if numbers < OLDEST_SERVER:
        oldest = ".".join(str(number) for number in OLDEST_SERVER)
        raise StoreError(f"{url} runs Qdrant {version}; version {oldest} or newer is needed")
    return client


def call_server(request: Callable[[], Answer], where: str) -> Answer:
    """The answer; connections that break and servers that are busy get another attempt (every request of ours can be
    repeated without harm).

    Raises:
        StoreError: what the server said, or that it did not answer.
    """
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return request()
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                reason = f"refused us ({error.status_code}): set {API_KEY_VARIABLE} to a key that may write"
                raise StoreError(f"{where} {reason}") from None
            reason = f"answered {error.status_code}: {error.content[:300].decode(errors='replace')}"
            if error.status_code not in _TRANSIENT or attempt == _ATTEMPTS:
                raise StoreError(f"{where} {reason}") from None
        except ResponseHandlingException as error:
            reason = f"does not answer as a Qdrant server would: {error.source or error}"
            if attempt == _ATTEMPTS:
                raise StoreError(f"{where} {reason}") from None
        except (ApiException, QdrantException) as error:
            raise StoreError(f"{where}: {error}") from None
        except ValueError as error:  # what came is not JSON, or not of the interface's form
            raise StoreError(f"{where} does not answer as a Qdrant server would: {error}") from None
        _log.warning("%s %s; attempt %d of %d", where, reason, attempt + 1, _ATTEMPTS)
        time.sleep(_PAUSE_SECONDS * attempt)
    raise AssertionError("the last attempt returns or raises")


def _import_models() -> Any:
    try:
        from qdrant_client import models
    except ImportError:
        raise MissingExtraError("qdrant-client", "qdrant") from None
    return models


def _found(record: models.Record | models.ScoredPoint, *, with_frames: bool, score: float = 0.0) -> FoundWindow:
    window, norms_T = payload_window(record.payload or {})
    frames_TE: Tensor | None = None
    if with_frames:
        vectors = cast("dict[str, Any]", record.vector)
        frames_TE = join_frames(read_vectors(vectors[FRAMES]), norms_T)
    return FoundWindow(window, score, frames_TE)
