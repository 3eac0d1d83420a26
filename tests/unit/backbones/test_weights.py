from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from side4video.backbones.weights import load_whole, read_weights, tower_part
from side4video.errors import CheckpointError

STATE = {"blocks.0.weight": torch.arange(6.0).view(2, 3), "head": torch.ones(4)}


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": {f"module.{key}": value for key, value in STATE.items()}},
        {"model_state_dict": STATE, "optimizer_state_dict": {"lr": 1.0}},
        {
            "student": {"x": torch.zeros(2)},
            "teacher": {f"module.backbone.{k}": v for k, v in STATE.items()} | {"module.head.0": torch.ones(2)},
        },
    ],
    ids=["bare", "state_dict", "module", "released", "teacher"],
)
def test_wrappers_are_taken_off(tmp_path: Path, content: object) -> None:
    found = read_weights(written(tmp_path / "x.pt", content))
    assert set(found) == set(STATE)
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert set(read_weights(tmp_path / "x.safetensors")) == set(STATE)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/never-made"),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"cannot read .*pickled code and TorchScript archives are refused"):
        read_weights(path)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_weights(written(path, {"a": Evil()}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="TorchScript archives are refused"):
        read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_damaged_and_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x00\x01 not weights")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_weights(tmp_path / name)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_weights(written(tmp_path / "x.pt", {"epoch": 3}))


def test_loading_leaves_nothing_at_random(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 3)
    full = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match="p lacks 1 of the 2 tensors of m, such as bias; the file has weight"):
        load_whole(model, {"weight": full["weight"]}, path="p", name="m")
    with pytest.raises(CheckpointError, match=r"does not fit m: bias \(4,\) instead of \(3,\)"):
        load_whole(model, full | {"bias": torch.zeros(4)}, path="p", name="m")
    with caplog.at_level(logging.INFO):
        load_whole(model, full | {"decoder": torch.zeros(4)}, path="p", name="m")
    assert "1 tensors of p are not part of the image model: decoder" in caplog.text
    assert torch.equal(model.weight.detach(), full["weight"])


def test_the_image_tower_of_a_clip() -> None:
    tower = nn.Linear(2, 3)
    own = dict(tower.state_dict())
    whole = {f"visual.{key}": value for key, value in own.items()} | {"token_embedding.weight": torch.ones(2)}
    assert set(tower_part(whole, tower=tower)) == set(own)
    assert tower_part(own, tower=tower) is own
