"""The server store against peers that misbehave; that it keeps the promises of every store is tested in contract/."""

from __future__ import annotations

import builtins
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from qdrant_client import QdrantClient, models

from side4video.errors import MissingExtraError, StoreError
from side4video.search import qdrant_server_store as module
from side4video.search.qdrant_server_store import QdrantServerStore, connect
from side4video.search.store import StoreIdentity, Window, WindowPoint
from side4video.search.stores import open_store

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")

E = 5


class Peer:
    """A server on localhost that answers as the test says: by path a status and a body, or a list of them."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"/": (200, {"title": "qdrant", "version": "1.15.3"})}
        self.seen: list[tuple[str, str, str | None]] = []
        self.delay = 0.0
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                self.rfile.read(length)
                path = self.path.split("?")[0]
                peer.seen.append((self.command, path, self.headers.get("api-key")))
                time.sleep(peer.delay)
                answer = peer.answers.get(path, (404, {"status": {"error": f"nothing at {path}"}}))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                status, body = answer
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret")
    return "s3cret"


def test_nobody_at_the_address(peer: Peer) -> None:
    peer.close()
    with pytest.raises(StoreError, match=rf"{peer.url} does not answer as a Qdrant server would: .*refused"):
        open_store(peer.url)


def test_a_server_that_never_answers(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    peer.delay = 1.5
    with pytest.raises(StoreError, match="does not answer as a Qdrant server would: timed out"):
        connect(peer.url, timeout_seconds=1)


@pytest.mark.parametrize("url", ["http://", "http:///x", "https://:6333"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(StoreError, match="is not an address of a server; it looks like http://host:6333"):
        open_store(url)


@pytest.mark.parametrize("url", ["http://me:s3cret@host:6333", "http://host:6333?api_key=s3cret"])
def test_a_key_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError, match="address of host: set QDRANT_API_KEY") as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_refused(peer: Peer, status: int) -> None:
    peer.answers["/"] = (status, "Must provide an API key")
    with pytest.raises(StoreError, match=rf"refused us \({status}\): set QDRANT_API_KEY to a key that may write"):
        open_store(peer.url)
    assert len(peer.seen) == 1


def test_the_key_comes_from_the_environment(peer: Peer, key: str, caplog: pytest.LogCaptureFixture) -> None:
    peer.answers["/collections/films/exists"] = (200, {"result": {"exists": False}, "status": "ok", "time": 0.1})
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(StoreError, match="no collection 'films': index into it first"),
    ):
        open_store(peer.url, collection="films")
    assert peer.seen == [("GET", "/", key), ("GET", "/collections/films/exists", key)]
    assert "the API key travels unencrypted over http" in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize("version", ["1.9.7", "0.11.0"])
def test_a_server_that_is_too_old(peer: Peer, version: str) -> None:
    peer.answers["/"] = (200, {"title": "qdrant", "version": version})
    with pytest.raises(StoreError, match=rf"runs Qdrant {version}; version 1.10 or newer is needed"):
        open_store(peer.url)


@pytest.mark.parametrize(
    "body",
    [{"title": "shop", "version": "x.y"}, {"title": "shop"}, "<html>hello</html>"],
    ids=["words", "none", "page"],
)
def test_another_kind_of_server(peer: Peer, body: object) -> None:
    peer.answers["/"] = (200, body)
    with pytest.raises(StoreError, match=r"not a Qdrant server|does not answer as a Qdrant server would"):
        open_store(peer.url)


def test_a_busy_server_gets_another_attempt(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    busy = (503, "overloaded")
    peer.answers["/"] = [busy, busy, (200, {"title": "qdrant", "version": "1.15.3-dev"})]
    connect(peer.url).close()
    assert len(peer.seen) == 3
    assert "answered 503: overloaded; attempt 3 of 3" in caplog.text
    peer.answers["/"] = busy
    with pytest.raises(StoreError, match="answered 503: overloaded"):
        connect(peer.url)
    peer.seen.clear()
    peer.answers["/"] = (400, "what?")
    with pytest.raises(StoreError, match=r"answered 400: what\?"):
        connect(peer.url)
    assert len(peer.seen) == 1


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("qdrant_client"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'side4video\[qdrant\]'"):
        open_store("http://localhost:6333")


def vectors(size: int = E) -> dict[str, models.VectorParams]:
    return {name: models.VectorParams(size=size, distance=models.Distance.DOT) for name in ("mean", "frames")}


def meta_of(client: QdrantClient) -> dict[str, Any]:
    (record,) = client.retrieve("films", [module._META_ID], with_payload=True)
    assert record.payload is not None
    return record.payload["store"]


def test_somebody_elses_collection_is_left_alone(tmp_path: Path) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("films", vectors_config=models.VectorParams(size=3, distance=models.Distance.COSINE))
    for full in (False, True):
        if full:
            client.upsert("films", [models.PointStruct(id=1, vector=[1.0, 2.0, 3.0])])
        for identity in (None, StoreIdentity(E)):
            with pytest.raises(StoreError, match="collection 'films' is not a side4video vector store; left as it is"):
                QdrantServerStore(client, where="the peer", collection="films", identity=identity)
        assert client.count("films").count == full
    client.close()


def test_a_collection_that_was_only_begun_is_finished() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("films", vectors_config=vectors())
    with pytest.raises(StoreError, match="is not a side4video vector store"):
        QdrantServerStore(client, where="the peer", collection="films")
    store = QdrantServerStore(client, where="the peer", collection="films", identity=StoreIdentity(E))
    assert (store.identity, store.count()) == (StoreIdentity(E), 0)
    assert meta_of(client)["layout"] == 1
    store.close()


def test_a_newer_layout_is_refused_and_left_as_it_is() -> None:
    client = QdrantClient(":memory:")
    store = QdrantServerStore(client, where="the peer", collection="films", identity=StoreIdentity(E))
    store.upsert([WindowPoint(Window("a.mp4", "h", 0, 1, 0.0, 1.0, 25.0), torch.ones(2, E))])
    client.set_payload("films", {"store": meta_of(client) | {"layout": 2}}, [module._META_ID])
    for identity in (None, StoreIdentity(E)):
        with pytest.raises(StoreError, match="the peer, collection 'films': layout 2 comes from a newer side4video"):
            QdrantServerStore(client, where="the peer", collection="films", identity=identity)
    assert meta_of(client)["layout"] == 2
    assert client.count("films").count == 2
    client.close()
