from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from side4video import from_pretrained, load
from side4video.build import load_classifier
from side4video.errors import CheckpointError
from side4video.hub.download import LIMITS, fetch_run, local_run
from unit.hub.fake_hub import FakeHub

NAME = "me/my-run"


def edit(remote: dict[str, bytes], before: str, after: str) -> None:
    """Change a line of the settings."""
    text = remote["config.yaml"].decode()
    assert before in text
    remote["config.yaml"] = text.replace(before, after, 1).encode()


def test_a_run_comes_back_as_it_was(run: Path, hub: FakeHub, remote: dict[str, bytes]) -> None:
    clip_BTCHW = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        wanted = load(run)(clip_BTCHW)
        for model in (from_pretrained(NAME), load(f"hf:{NAME}"), load_classifier(f"hf:{NAME}"), from_pretrained(run)):
            assert torch.equal(model(clip_BTCHW), wanted)
    # the page and whatever else lies there is not fetched
    assert not any("README" in line for line in hub.asked)


def test_without_a_connection_it_comes_from_the_cache(
    hub: FakeHub, remote: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    online = fetch_run(NAME)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_run(NAME) == online
    assert hub.asked == []
    with pytest.raises(CheckpointError, match=r"hf:me/other: not in the cache, and HF_HUB_OFFLINE is set"):
        fetch_run("me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"not in the cache, and http://127.0.0.1:9 cannot be reached"):
        fetch_run("me/other")


def test_what_is_not_there_says_so(hub: FakeHub, remote: dict[str, bytes]) -> None:
    with pytest.raises(
        CheckpointError, match=r"^hf:me/nothing: the hub has no such repository|hf:me/nothing: .*says no"
    ):
        fetch_run("me/nothing")
    hub.files["me/dataset"] = {"data.csv": b"x"}
    with pytest.raises(CheckpointError, match=r"hf:me/dataset: it has no config.yaml, so it is not a run"):
        fetch_run("me/dataset")
    assert local_run("runs/mine") == Path("runs/mine")


@pytest.mark.parametrize("file", ["config.yaml", "classes.json", "side.safetensors"])
def test_a_file_that_is_too_large_is_not_fetched(
    file: str, hub: FakeHub, remote: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, file, len(remote[file]) - 1)
    with pytest.raises(CheckpointError, match=rf"{file} is {len(remote[file])} bytes, more than the allowed"):
        fetch_run(NAME)
    assert not any(line.startswith("GET") and line.endswith(file) for line in hub.asked)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("name: tiny-clip", "name: timm:hf-hub:evil/model", "not one that everybody can have"),
        ("name: tiny-clip", "name: open_clip:ViT-B-16//etc/passwd", "not one that everybody can have"),
        ("name: tiny-clip", "name: released:clip/12", "not one that everybody can have"),
        ("weights: null", "weights: /etc/passwd", r"files of another machine: backbone.weights"),
        ("train: null", "train: /data", r"files of another machine: data.train"),
        ("compile: false", "compile: true", "ask for a compiler"),
        ("num_frames: 4", "num_frames: 100000", r"data.num_frames=100000 is more than the allowed 1024"),
        ("image_size: null", "image_size: 100000", r"backbone.image_size=100000 is more than the allowed"),
        ("width: 24", "width: 240000", r"do not fit side.width=240000"),
        ("task: recognition", "task: !!python/object/apply:os.system [true]", "config.yaml is damaged"),
        ("task: recognition", "task: &a recognition\nmemory: *a", "YAML aliases"),
        ("task: recognition", "task: [" + "[" * 5000, "nests deeply"),
    ],
)
def test_settings_of_a_stranger_may_not_ask_for_everything(
    before: str, after: str, message: str, remote: dict[str, bytes]
) -> None:
    edit(remote, before, after)
    with pytest.raises(CheckpointError, match=message):
        fetch_run(NAME)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(["a", "b"]).encode(), r"do not fit 2 class names: head.weight is of shape \(3, 24\)"),
        (json.dumps(["a", "b", "\x1b[2J"]).encode(), "too long or not printable"),
        (json.dumps(["a", "b", 3]).encode(), "too long or not printable"),
        (b"[" * 100_000, "classes.json is missing or damaged"),
        (b"{}", "must be a list of class names"),
    ],
)
def test_class_names_are_names(content: bytes, message: str, remote: dict[str, bytes]) -> None:
    remote["classes.json"] = content
    with pytest.raises(CheckpointError, match=message):
        fetch_run(NAME)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04pickle", struct.pack("<Q", 1 << 60), struct.pack("<Q", 4) + b"null", struct.pack("<Q", 2) + b"{}"],
)
def test_weights_are_safetensors_and_fit(content: bytes, remote: dict[str, bytes]) -> None:
    remote["side.safetensors"] = content
    with pytest.raises(CheckpointError, match=r"side.safetensors|do not fit side.width"):
        fetch_run(NAME)


def test_another_backbone_is_refused_by_its_hash(remote: dict[str, bytes]) -> None:
    record = json.loads(remote["backbone.json"])
    remote["backbone.json"] = json.dumps(record | {"hash": "0" * 64}).encode()
    with pytest.raises(CheckpointError, match="whose weights differ"):
        from_pretrained(NAME)
