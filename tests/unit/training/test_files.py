"""Files are replaced whole or not at all, and read back exactly or with an error that names them."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from side4video.errors import CheckpointError, TrainingError
from side4video.training.checkpoint import RunFolder, writing
from side4video.training.files import read_json, read_tensors, write_bytes, write_folder, write_json, write_tensors


def test_round_trips_are_exact(tmp_path: Path) -> None:
    value = {"a": [0.1 + 0.2, 1e-323, 5e300, None, True, "zwölf"], "b": {"c": 2**62}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    tensors = {"x": torch.randn(2, 3, dtype=torch.float64).T, "step": torch.tensor(3.0), "n": torch.tensor([7])}
    write_tensors(tmp_path / "a.safetensors", tensors)
    found = read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "state.json"
    write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if failing == "fsync" else (Path, "replace", full)))
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    stopped = pytest.raises(
        TrainingError, match=r"cannot write to .*: No space left on device; the state in old is intact"
    )
    with stopped, writing(tmp_path, kept=Path("old")):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_failed_folder_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "step", {"a.json": 1, "b.safetensors": {"x": torch.zeros(2)}})
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(50)})
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-7])
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04cos\nsystem\n.")
    for name, read in (
        ("a.json", read_json), ("a.safetensors", read_tensors), ("pickle.safetensors", read_tensors)
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=f"{name}: damaged"):
            read(tmp_path / name)
    for read in (read_json, read_tensors):
        with pytest.raises(CheckpointError, match=r"none.x: No such file or directory"):
            read(tmp_path / "none.x")


def test_the_newest_complete_state_counts_and_older_ones_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load_state() is None
    first = folder.save_state(3, {"weights": {"x": torch.zeros(2)}}, {"n": 1})
    second = folder.save_state(3, {"weights": {"x": torch.ones(2)}}, {"n": 2})
    assert first != second
    # what a killed process left behind
    (tmp_path / "state" / "step-000000009-000009.partial").mkdir()
    saved = folder.load_state()
    assert saved is not None
    assert (saved.path, saved.values) == (second, {"n": 2})
    assert saved.tensors["weights"]["x"].tolist() == [1.0, 1.0]
    third = folder.save_state(4, {"weights": {"x": torch.ones(2)}}, {"n": 3})
    assert list((tmp_path / "state").iterdir()) == [third]


def test_a_run_cannot_begin_where_nothing_can_be_written(tmp_path: Path, small: ModuleType) -> None:
    (tmp_path / "file").write_text("")
    model = small.small_model()
    with pytest.raises(TrainingError, match=r"cannot write to .*/file/run: Not a directory"):
        RunFolder(tmp_path / "file" / "run").begin(small.small_settings(), model.backbone, ["a"])
