"""`side4video embed`: vectors of retrieval runs and classifiers in files that others read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from run.retrieval_runs import NUM_FRAMES
from side4video.build import load_classifier
from side4video.cli.main import main
from side4video.search.run_identity import run_identity


def embed(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["embed", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_windows_of_a_retrieval_run(
    retrieval_run: Path, footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "vectors.safetensors"
    (tmp_path / "broken.mp4").write_text("hello")
    videos = [footage / "night" / "0.mp4", footage / "day" / "5.mp4"]
    value = embed(capsys, retrieval_run, *videos, tmp_path / "broken.mp4", "--out", out, "--fps", "4", code=1)
    assert [Path(found["path"]).name for found in value.pop("unreadable")] == ["broken.mp4"]
    tensors = safetensors.torch.load_file(out)
    # 5 frames in a second; 6 seconds at 4 a second are 24 frames: windows from 0, 2, ... 18 and one at the end
    assert value == {"out": str(out), "videos": 2, "windows": 1 + 11, "width": tensors["clips_VE"].shape[1]}
    assert tensors["frames_VTE"].shape == (12, NUM_FRAMES, value["width"])
    assert tensors["videos_V"].tolist() == [0, *[1] * 11]
    assert tensors["mask_VT"].all()
    torch.testing.assert_close(tensors["clips_VE"], tensors["frames_VTE"].mean(1))
    assert (tensors["times_VT"][:, 0] == tensors["starts_V"]).all()
    assert (tensors["times_VT"][:, -1] < tensors["ends_V"]).all()
    assert tensors["ends_V"].tolist()[::11] == pytest.approx([1, 6])
    assert tensors["fps_V"].tolist()[:2] == [5, 4], "the short one is looked at closer"
    with safetensors.safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["paths"]) == list(map(str, videos))
    assert json.loads(metadata["model"]) == run_identity(retrieval_run)
    assert json.loads(metadata["windows"]) == {"num_frames": NUM_FRAMES, "stride": 2, "fps": 4.0}
    assert (metadata["task"], metadata["run"]) == ("retrieval", str(retrieval_run))


@torch.no_grad()
def test_a_classifier_and_parquet(
    trained: Path, footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet

    video, out = footage / "day" / "1.mp4", tmp_path / "vectors.parquet"
    assert main(["embed", str(trained), str(video), "--out", str(out), "--frames", "3", "--stride", "3"]) == 0
    assert f"{out}: 1 videos, 2 windows of 3 frames at 2 a second, every 3, 24 wide" in capsys.readouterr().out
    table = pyarrow.parquet.read_table(out)
    rows = table.to_pylist()
    assert [(row["path"], row["start"], row["end"], row["fps"]) for row in rows] == [
        (str(video), 0, 1.5, 2),
        (str(video), 0.5, 2, 2),
    ]
    assert rows[0]["times"] == [0, 0.5, 1]
    model = load_classifier(trained)
    other = tmp_path / "vectors.safetensors"
    embed(capsys, trained, video, "--out", other, "--frames", "3", "--stride", "3")
    tensors = safetensors.torch.load_file(other)
    torch.testing.assert_close(torch.tensor(rows[1]["frames"]), tensors["frames_VTE"][1])
    torch.testing.assert_close(torch.tensor([row["clip"] for row in rows]), tensors["clips_VE"])
    assert tensors["clips_VE"].shape[1] == model.side.spec.width
    assert json.loads(table.schema.metadata[b"model"])["weights_hash"] == run_identity(trained)["weights_hash"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "{clips}", "--out", "a.npz"], "--out: must end in .safetensors or .parquet; got 'a.npz'"),
        (["{run}", "{clips}"], "--out"),
        (["{run}", "--out", "a.parquet"], "no video"),
        (["{run}", "text.mp4", "--out", "a.parquet"], "text.mp4"),
        (["{run}", "{clips}", "--out", "a.parquet", "--fps", "0"], "fps must be above 0"),
        (["nowhere", "{clips}", "--out", "a.parquet"], "no such run folder"),
    ],
)
def test_bad_words(
    retrieval_run: Path,
    footage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("hello")
    assert main(["embed", *(word.format(run=retrieval_run, clips=footage) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]
