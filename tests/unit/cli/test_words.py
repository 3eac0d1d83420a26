"""Views, run folders and videos as words of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from side4video.cli.video_paths import check_run, find_videos
from side4video.cli.views import Views, parse_views
from side4video.errors import ConfigError


def test_views_are_clips_times_crops() -> None:
    assert parse_views("4x3") == Views(clips=4, crops=3)
    assert parse_views("4x3").count == 12
    assert str(parse_views("10x5")) == "10x5"


@pytest.mark.parametrize("text", ["4", "4x2", "0x3", "x3", "4x", "4*3", "-1x3", "3x4", ""])
def test_other_views_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--views: must be CLIPSxCROPS, .* got '"):
        parse_views(text)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for run in ("runs/a", "runs/b"):
        Path(run).mkdir(parents=True)
        Path(run, "config.yaml").touch()
        Path(run, "side.safetensors").touch()
    Path("runs/unfinished").mkdir()
    Path("runs/unfinished/config.yaml").touch()
    for name in ("v/one.mp4", "v/deep/two.MKV", "v/deep/notes.txt", "v/frames/img_00001.jpg", "v/frames/img_00002.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("v/three [1].webm").touch()
    Path("empty").mkdir()
    return tmp_path


def test_folders_are_looked_through_and_globs_are_expanded(place: Path) -> None:
    found = find_videos(["runs/a", "v", "runs/b"])
    assert [str(path) for path in found.runs] == ["runs/a", "runs/b"]
    assert [str(path) for path in found.videos] == ["v/one.mp4", "v/three [1].webm", "v/deep/two.MKV", "v/frames"]
    assert found.missing == []
    assert [str(path) for path in find_videos(["runs/a", "v/**/*.MKV"]).videos] == ["v/deep/two.MKV"]
    # every match once; a name with brackets is a name before it is a pattern; what is named is taken, whatever its name
    again = find_videos(["runs/a", "v/one.mp4", "v/o*", "v/three [1].webm", "v/deep/notes.txt"])
    assert [str(path) for path in again.videos] == ["v/one.mp4", "v/three [1].webm", "v/deep/notes.txt"]


def test_words_that_lead_nowhere_are_named(place: Path) -> None:
    found = find_videos(["runs/a", "gone.mp4", "v/*.avi", "empty", "v/one.mp4"])
    assert found.missing == [
        ("gone.mp4", "no such file"),
        ("v/*.avi", "matches no video"),
        ("empty", "no video in this folder"),
    ]
    assert [str(path) for path in found.videos] == ["v/one.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/c", "v"], "no such run folder: 'runs/c'"),
        (["v/one.mp4", "runs/a"], "'v/one.mp4' is a file; a run is the folder"),
        (["v", "runs/a"], "'v' is no run folder: it has no config.yaml"),
        (["runs/unfinished", "v"], "holds a run without weights"),
        (["runs/a", "runs/b"], "no video: name files, folders or globs"),
    ],
)
def test_the_first_word_is_a_run_and_a_video_follows(place: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_videos(words)


def test_a_run_is_a_run(place: Path) -> None:
    check_run(Path("runs/a"))
