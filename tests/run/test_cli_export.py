"""`side4video export`: the file gives what `predict` gives, without this package; wrong words are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from run.small_export import NUM_FRAMES, write_small_run
from run.small_runs import CLASSES, draw_clip
from side4video.cli.main import main
from side4video.data.decode import open_video

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("--frames", str(NUM_FRAMES), "--batch", "1")

ALONE = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "side4video", "torchvision", "timm", "open_clip"}:
            raise ImportError(f"{name} is not to be had here")
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"torch", "side4video"} & set(sys.modules)
"""


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("video") / "clip.mp4", CLASSES[1], seed=3, num_frames=17)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="session")
def exported(small_run: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as ONNX, for one clip of its own number of frames."""
    out = tmp_path_factory.mktemp("files") / "deep" / "small.onnx"
    assert main(["export", str(small_run), str(out), *SIZES, "--verify", str(video)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["small.onnx"]
    return out


def alone(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The example in a process that can import neither torch nor this package."""
    command = [sys.executable, "-c", ALONE, str(ROOT / "examples" / "run_onnx.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("views", [1, 3])
def test_the_file_says_what_predict_says_without_torch_and_without_this_package(
    exported: Path, small_run: Path, video: Path, views: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(small_run), str(video), "--views", f"{views}x1", "--json"]) == 0
    (wanted,) = json.loads(capsys.readouterr().out)
    done = alone(exported, video, "--clips", str(views), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [entry["label"] for entry in found] == [entry["label"] for entry in wanted["predictions"]]
    for mine, theirs in zip(found, wanted["predictions"], strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-6)


def test_the_example_takes_frames_as_an_array_too(exported: Path, video: Path, tmp_path: Path) -> None:
    with open_video(video) as reader:
        frames_TCHW = reader.read(range(reader.info.num_frames))
    np.save(tmp_path / "frames.npy", frames_TCHW.permute(0, 2, 3, 1).numpy())
    from_array = alone(exported, tmp_path / "frames.npy", "--json")
    assert from_array.returncode == 0, from_array.stderr
    assert json.loads(from_array.stdout) == json.loads(alone(exported, video, "--json").stdout)


def test_too_small_a_tolerance_keeps_nothing_and_is_exit_code_1(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(small_run), str(tmp_path / "small.pt2"), *SIZES, "--tolerance", "1e-30", "--json"]
    assert main(words) == 1
    captured = capsys.readouterr()
    (entry,) = json.loads(captured.out)
    # a drawn clip in place of --verify
    assert entry["clips_compared"] == 1
    assert entry["kept"] is False
    assert 0 < entry["difference"] < 1e-5
    assert "not kept: it differs from the run by" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_json_says_what_was_written(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "side.pt2"
    assert main(["export", str(small_run), str(out), "--what", "side", *SIZES, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["path"], entry["part"], entry["precision"], entry["kept"]) == (str(out), "side", "float32", True)
    assert entry["bytes"] == out.stat().st_size
    extra = {"side4video.json": ""}
    torch.export.load(out, extra_files=extra)
    about = json.loads(extra["side4video.json"])
    assert about["class_names"] == list(CLASSES)
    assert [spec["name"] for spec in about["inputs"]] == ["clip", "tokens_0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "m.bin"], "OUT must end in .onnx or .pt2, or be hf:ORG/NAME or FOLDER/; got 'm.bin'"),
        (["{run}", "m.onnx", "--what", "half"], "--what: must be full or side; got 'half'"),
        (["{run}", "m.onnx", "--frames", "0"], "--frames: must be dynamic or a number from 1; got '0'"),
        (["{run}", "m.onnx", "--batch", "many"], "--batch: must be dynamic or a number from 1; got 'many'"),
        (["{run}", "m.pt2", "--int8"], "--int8 is for .onnx files; got 'm.pt2'"),
        (["{run}", "m.onnx", "--tolerance", "-1"], "--tolerance: must be above 0; got -1.0"),
        (["{run}", "m.onnx", "--verify", "none.mp4"], "--verify: no such file: 'none.mp4'"),
        (["{run}", "{out}"], "is there already, and nothing is overwritten"),
        (["nowhere", "m.onnx"], "no such run folder: 'nowhere'"),
        (["{run}"], "OUT is missing"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], message: str, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken.onnx"
    taken.write_bytes(b"mine")
    assert main(["export", *(word.format(run=small_run, out=taken) for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert taken.read_bytes() == b"mine"
