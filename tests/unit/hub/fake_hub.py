"""A model hub on this machine, as far as its client asks: files by name, and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants


@dataclass
class FakeHub:
    """`files` by repository; `refuse` is a status that every request gets, with the request's own token in its text."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    refuse: int | None = None
    token: str | None = None

    def commit_of(self, repository: str) -> str:
        """Changes with what is in it."""
        content = json.dumps(sorted((k, len(v)) for k, v in self.files[repository].items()))
        return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._refused():
            return
        _, organisation, name, kind, _revision, file = [*self.path.split("/", 5), *[""] * 6][:6]
        repository = f"{organisation}/{name}"
        content = self.hub.files.get(repository, {}).get(file)
        if kind != "resolve" or repository not in self.hub.files:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif content is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit_of(repository)})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._refused():
            return
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            repository = f"{wanted['organization']}/{wanted['name']}"
            self.hub.files.setdefault(repository, {})
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.hub.private.add(repository)
            self._json({"url": f"{self.hub.address}/{repository}"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            repository = "/".join(self.path.split("/")[3:5])
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.files[repository][entry["value"]["path"]] = content
            oid = self.hub.commit_of(repository)
            self._json(
                {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.address}/{repository}/commit/{oid}"}
            )
        else:
            self._answer(404, b"")

    def _refused(self) -> bool:
        self.hub.asked.append(f"{self.command} {self.path}")
        given = self.headers.get("Authorization", "")
        status = self.hub.refuse
        if status is None and self.hub.token is not None and given != f"Bearer {self.hub.token}":
            status = 401
        if status is None:
            return False
        # a careless hub repeats what it was sent
        text = f"no, not with {given}"
        self._answer(status, json.dumps({"error": text}).encode(), {"X-Error-Message": text})
        return True

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def at_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let the client take this address for the hub's, as HF_ENDPOINT does when it is set before the import."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """The hub, while the block runs."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
