"""A hub on this machine, and a run with everything that must not leave it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from run.small_export import write_small_run
from side4video.backbones import hub as backbones_hub
from side4video.hub.upload import shared_files
from unit.hub.fake_hub import FakeHub, at_hub, running_hub

SECRET = "/home/somebody/secret-project"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with running_hub() as running:
        at_hub(monkeypatch, running.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(backbones_hub, "getproxies", dict)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield running


@pytest.fixture(scope="session")
def _shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_small_run(tmp_path_factory.mktemp("runs") / "small")
    settings = yaml.safe_load((path / "config.yaml").read_text())
    settings["data"] |= {"train": f"{SECRET}/clips", "val": f"{SECRET}/val.csv", "root": SECRET}
    settings["cache"]["dir"] = f"{SECRET}/cache"
    (path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (path / "metrics.json").write_text(json.dumps({"best": {"epoch": 2, "val_top1": 0.875}, "history": []}))
    record = {
        "status": "finished", "epochs": 3, "train_videos": 15, "seconds": 12.5, "seed": 0, "side4video": "0.1.0",
        "command": ["side4video", "train", f"{SECRET}/clips"], "commit": "abc",
        "hardware": {"processor": "Some CPU", "cores": 2, "gpus": [], "system": "Linux at somebody's"},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(record))
    (path / "broken.json").write_text(json.dumps([f"{SECRET}/clips/a.mp4"]))
    (path / "report.html").write_text(f"<img src='{SECRET}/thumbnail.jpg'>")
    (path / "logs").mkdir()
    (path / "logs" / "metrics.csv").write_text("x")
    return path


@pytest.fixture(scope="session")
def _shared_files(_shared_run: Path) -> dict[str, bytes]:
    files = shared_files(_shared_run, "me/my-run")
    return {name: part.read_bytes() if isinstance(part, Path) else part for name, part in files.items()}


@pytest.fixture
def remote(_shared_files: dict[str, bytes], hub: FakeHub) -> dict[str, bytes]:
    """The run on the hub, as `me/my-run`; what a test changes in it, a stranger has changed."""
    hub.files["me/my-run"] = dict(_shared_files)
    return hub.files["me/my-run"]


@pytest.fixture
def run(_shared_run: Path, tmp_path: Path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(_shared_run, tmp_path / "run"))
