"""`side4video explain` on trained runs: pictures that other programs read, numbers that add up, bad input by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from run.retrieval_runs import NUM_FRAMES
from run.small_runs import CLASSES, draw_clip
from side4video.cli.explain import picture_paths
from side4video.cli.main import main
from side4video.errors import ConfigError


def explain(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["explain", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("videos") / "slide.mp4", "slide-left", seed=5, num_frames=14)


def test_pictures_and_numbers(trained: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = explain(capsys, trained, video, "--out", tmp_path / "out")
    keys = ["path", "label", "score", "evidence", "baseline", "missing", "frames", "taps", "files"]
    assert list(entry) == keys
    assert entry["label"] in CLASSES
    assert entry["files"] == [str(tmp_path / "out" / f"slide{suffix}") for suffix in (".mp4", ".gif", ".png")]
    numbers = [moment["frame"] for moment in entry["frames"]]
    assert len(numbers) == 6
    assert [moment["seconds"] for moment in entry["frames"]] == pytest.approx([n / 10 for n in numbers])
    for rows in (entry["frames"], entry["taps"]):
        total = sum(row["contribution"] for row in rows)
        assert total + entry["missing"] == pytest.approx(entry["evidence"] - entry["baseline"], abs=1e-4)
        assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-4)
    assert entry["taps"][0]["name"] == "pixels"
    with av.open(entry["files"][0]) as container:
        assert len(list(container.decode(video=0))) == numbers[-1] - numbers[0] + 1
    with Image.open(entry["files"][1]) as gif, Image.open(entry["files"][2]) as strip:
        assert gif.format == "GIF"
        assert gif.n_frames > 2
        assert gif.size == (320, 320)
        assert strip.format == "PNG"
        assert strip.width > 6 * 168


def test_a_target_and_one_file(trained: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "grow.gif"
    (by_name,) = explain(capsys, trained, video, "--target", "grow", "--steps", "2", "--out", out)
    assert by_name["label"] == "grow"
    assert [path.name for path in out.parent.iterdir()] == ["grow.gif"]
    (by_number,) = explain(capsys, trained, video, "--target", CLASSES.index("grow"), "--steps", "2", "--out", out)
    assert by_number["evidence"] == by_name["evidence"]
    assert main(["explain", str(trained), str(video), "--steps", "2", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert f"wrote {out}" in text
    assert "without places and moments" in text


def test_a_sentence_and_a_retrieval_run(
    retrieval_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = explain(capsys, retrieval_run, video, "--text", "a white square moves", "--out", tmp_path / "s.png")
    assert entry["label"] == "a white square moves"
    assert len(entry["frames"]) == NUM_FRAMES
    assert entry["score"] == entry["evidence"]
    for words, message in (
        ([retrieval_run, video], "say what to explain with --text SENTENCE"),
        ([retrieval_run, video, "--text", " "], "--text: must have a word in it; got ' '"),
    ):
        assert main(["explain", *map(str, words), "--out", str(tmp_path / "no.png")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_broken_videos_are_named_and_the_others_explained(
    trained: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    entries = explain(capsys, trained, video, broken, tmp_path / "gone.mp4", "--steps", "1", "--out", tmp_path, code=1)
    assert [entry["path"] for entry in entries] == [str(video)]
    assert explain(capsys, trained, broken, code=2) == []


def test_bad_input_is_named(trained: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ([video, "--target", "gro"], "--target: 'gro' is no class of this model; did you mean 'grow'"),
        ([video, "--target", "7"], "--target: '7' is no class of this model"),
        ([video, "--text", "a cat"], "is a recognition run, which knows no text: use --target LABEL"),
        ([video, "--text", "a cat", "--target", "grow"], "give one of them"),
        ([video, "--steps", "0"], "--steps: must be at least 1; got 0"),
        ([video, "--out", "map.jpg"], "--out: a file must end in .mp4, .gif, .png; got 'map.jpg'"),
        ([video, video.parent / "*.mp4", trained.parent, "--out", tmp_path / "a.gif"], "no video in this folder"),
    ):
        assert main(["explain", str(trained), *map(str, words)]) in (1, 2)
        assert message in capsys.readouterr().err
    assert not Path("explained").exists()


def test_files_of_several_videos(tmp_path: Path) -> None:
    paths = picture_paths(tmp_path / "out", [Path("a/1.mp4"), Path("b/1.mkv"), Path("1-2.mp4")])
    assert [files[0].name for files in paths] == ["1.mp4", "1-2.mp4", "1-2-2.mp4"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        picture_paths(tmp_path / "file", [Path("1.mp4")])
    with pytest.raises(ConfigError, match="one file cannot show 2 videos"):
        picture_paths(tmp_path / "a.gif", [Path("1.mp4"), Path("2.mp4")])
