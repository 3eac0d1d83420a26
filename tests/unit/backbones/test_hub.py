from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from side4video.backbones import hub
from side4video.backbones.freezing import content_hash
from side4video.backbones.timm_vit import TimmViT
from side4video.errors import BackboneError


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", dict)


def test_a_hub_that_nobody_answers_for_fails_at_once_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    seen: list[bool] = []

    def library() -> None:
        with hub.downloading("timm:x"):
            seen.append(constants.HF_HUB_OFFLINE)
            raise OSError("not in the cache")

    with pytest.raises(BackboneError, match=r"'timm:x'.*127.0.0.1 cannot be reached.*weights=PATH, or use tiny-clip"):
        library()
    assert seen == [True]
    assert time.monotonic() - started < hub.KNOCK_SECONDS + 1
    assert constants.HF_HUB_OFFLINE is False


def test_offline_mode_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "reachable", lambda _: pytest.fail("nobody may be knocked at in offline mode"))
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE is set"), hub.downloading("timm:x"):
        raise RuntimeError("no such file")


def test_when_the_hub_answers_its_own_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "reachable", lambda _: True)
    with pytest.raises(BackboneError, match=r"cannot be downloaded \(No space left on device\)"), hub.downloading("x"):
        raise OSError("No space left on device")
    with pytest.raises(BackboneError, match=r"^ours$"), hub.downloading("x"):
        raise BackboneError("ours")


def test_a_proxy_is_asked_in_place_of_the_host(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(hub, "getproxies", lambda: {"https": proxy})
        assert hub.reachable("https://hub.invalid/x")
        assert not hub.reachable(f"http://127.0.0.1:{closed_port}")


class Hub(SimpleHTTPRequestHandler):
    """Answers as the hub does: `/ORG/NAME/resolve/main/FILE`, with the headers that its client asks for."""

    def end_headers(self) -> None:
        self.send_header("ETag", '"0123456789abcdef0123456789abcdef01234567"')
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake_hub(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A hub on this machine with one model, and the hash that a backbone with its weights has."""
    torch.manual_seed(5)
    model = timm.create_model("test_vit", pretrained=False, num_classes=1000)
    folder = tmp_path / "hub/timm/test_vit.r160_in1k/resolve/main"
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    model.reset_classifier(0)
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *args: Hub(*args, directory=str(tmp_path / "hub")),  # pyright: ignore[reportArgumentType]
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", content_hash(TimmViT(model))
    server.shutdown()
    server.server_close()


def test_a_name_downloads_from_the_hub_once_and_then_comes_from_the_cache(
    fake_hub: tuple[str, str], tmp_path: Path
) -> None:
    address, expected = fake_hub
    code = (
        "from side4video.backbones import create_backbone\n"
        "print(create_backbone('timm:test_vit.r160_in1k', precision='fp32').content_hash())\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run() == expected
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody is there
    assert run() == expected
