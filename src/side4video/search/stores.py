"""Opens the store that a folder or an address names, or makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from side4video.errors import ConfigError, StoreError
from side4video.search.flat_store import FlatStore
from side4video.search.layout import is_store, make_folder, read_folder
from side4video.search.lock import FolderLock
from side4video.search.qdrant_edge_store import QdrantEdgeStore
from side4video.search.qdrant_server_store import QdrantServerStore, connect
from side4video.search.store import StoreIdentity, VectorStore

StoreKind = Literal["qdrant-edge", "flat"]
KINDS: tuple[StoreKind, ...] = ("qdrant-edge", "flat")
_STORES: dict[str, type[QdrantEdgeStore | FlatStore]] = {"qdrant-edge": QdrantEdgeStore, "flat": FlatStore}


def open_store(
    into: str | Path,
    *,
    identity: StoreIdentity | None = None,
    kind: StoreKind | None = None,
    collection: str = "side4video",
    wait_seconds: float = 0.0,
) -> VectorStore:
    """The store in the folder `into`, or in `collection` of the Qdrant server at `into` (http:// or https://).

    With `identity` it is made when it is not there; without, it must be there. A store that is there keeps its own
    identity: compare `store.identity` with what you want. `kind` is for a new folder (default: the embedded database);
    an old one has its own. A folder takes one process at a time: `wait_seconds` waits for another to leave.

    Raises:
        StoreError: no store there, somebody else's folder, a damaged store, one of a newer layout, in use by another
            process, or a server that cannot be reached or refuses us. What was there is left as it is.
        MissingExtraError: a server needs qdrant-client.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"store kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if str(into).startswith(("http://", "https://")):
        url = str(into)
        return QdrantServerStore(connect(url), where=url, collection=collection, identity=identity)
    if "://" in str(into):
        raise StoreError(f"{str(into)!r} is neither a folder nor an address that starts with http:// or https://")
    folder = Path(into)
    if identity is not None and not is_store(folder):
        lock = FolderLock(folder).acquire(wait_seconds)
        try:
            if not is_store(folder):
                new_kind = kind or KINDS[0]
                make_folder(folder, new_kind, identity, _STORES[new_kind].fill)
        finally:
            lock.release()
    stored_kind, _ = read_folder(folder)
    if stored_kind not in _STORES:
        raise StoreError(f"{folder}: unknown kind of store {stored_kind!r}; known: {', '.join(KINDS)}")
    return _STORES[stored_kind](folder, wait_seconds=wait_seconds)
