"""`side4video doctor` on folders and list files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from run.small_runs import draw_clip
from side4video.cli.main import main


def doctor(capsys: pytest.CaptureFixture[str], *words: object, code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["doctor", *map(str, words), "--json", "--workers", "1"]) == code
    return json.loads(capsys.readouterr().out)


def kinds(value: dict[str, Any], of: str = "problems") -> list[tuple[str, str | None]]:
    return [(found["kind"], found["path"] and Path(found["path"]).name) for found in value[of]]


def test_a_healthy_data_set(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = doctor(capsys, clips / "train", "--val", clips / "val", code=0)
    assert value == {
        "ok": True,
        "num_videos": {"train": 15, "val": 6},
        "num_classes": 3,
        "problems": [],
        "notes": [],
    }


def test_everything_that_is_wrong_is_told_in_words(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(clips, tmp_path / "data"))
    (data / "train" / "grow" / "empty.mp4").write_bytes(b"")
    draw_clip(data / "train" / "grow" / "short.mp4", "grow", seed=77, num_frames=3)
    shutil.copy(data / "train" / "slide-left" / "0.mp4", data / "val" / "slide-left" / "copy.mp4")
    draw_clip(data / "val" / "slide-up" / "0.mp4", "slide-left", seed=78)
    (data / "train" / "nothing").mkdir()
    value = doctor(capsys, data / "train", "--val", data / "val", code=1)
    assert value["ok"] is False
    assert kinds(value) == [
        ("unreadable", "empty.mp4"),
        ("too_short", "short.mp4"),
        ("label_gap", None),
        ("unknown_class", None),
        ("duplicate_across_splits", "copy.mp4"),
    ]
    assert main(["doctor", str(data / "train"), "--val", str(data / "val"), "--workers", "2"]) == 1
    out = capsys.readouterr().out
    for text in ("empty.mp4: empty file", "short.mp4: 3 frames", "nothing", "slide-up", "copy.mp4", "5 problems"):
        assert text in out
    assert doctor(capsys, data / "val", "--num-frames", "12", code=1)["problems"][0]["detail"].startswith("11 frames")


def test_list_files_with_frame_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("a", 9), ("b", 10), ("c", 9)):
        (tmp_path / name).mkdir()
        for number in range(1, count + 1):
            Image.new("RGB", (24, 16), (number, ord(name), 3)).save(tmp_path / name / f"img_{number:05d}.jpg")
    (tmp_path / "c" / "img_00004.jpg").unlink()
    # classes 0, 1 and 3
    (tmp_path / "train.txt").write_text("a 9 0\nb 12 1\nc 9 3\ngone 9 0\n")
    value = doctor(capsys, tmp_path / "train.txt", "--frame-pattern", "img_{:05d}.jpg", code=1)
    assert sorted(kinds(value), key=str) == sorted(
        [("frame_count", "b"), ("unreadable", "c"), ("missing", "gone"), ("label_gap", None)], key=str
    )
    by_kind = {found["kind"]: found["detail"] for found in value["problems"]}
    assert by_kind["frame_count"] == "the list says 12 frames, there are 10"
    assert by_kind["label_gap"] == "class 2 (2) has no training clip"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "gone"),
        (["."], "has no class folders"),
        ([".", "--workers", "0"], "--workers: must be at least 1; got 0"),
        ([".", "--num-frames", "0"], "data.num_frames: must be a whole number, at least 1; got 0"),
        (["bad.csv"], "line"),
        ([], "SOURCE is missing"),
    ],
)
def test_what_is_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("path,label\na.mp4,grow\nb.mp4\n")
    assert main(["doctor", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
