"""`side4video index`: again only what changed, killed at random moments, two at once, and what bad words get."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from run.retrieval_runs import NUM_FRAMES, write_retrieval_run
from run.small_runs import draw_clip
from side4video.cli.main import main
from side4video.search.library import open_library
from side4video.search.lock import FolderLock

KILL_INDEX = Path(__file__).parents[1] / "assets" / "kill_index.py"


def index(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["index", *map(str, words), "--json", "--store", "flat"]) == code
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one message of a call that ends with 2."""
    capsys.readouterr()
    assert main(["index", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.fixture
def own(footage: Path, tmp_path: Path) -> Path:
    """Two of the videos, that a test may change."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("night/0.mp4", "day/1.mp4"):
        shutil.copy(footage / name, folder)
    return folder


def test_again_only_what_changed(
    retrieval_run: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lib = tmp_path / "lib"
    value = index(capsys, retrieval_run, own, "--into", lib)
    assert value.pop("seconds") > 0
    assert value == {
        "embedded": 2, "copied": 0, "unchanged": 0, "removed": 0, "missing": 0, "unreadable": [],
        "videos": 2, "windows": 2,
    }  # fmt: skip
    with open_library(lib) as library:
        assert library.run == retrieval_run
        settings = library.identity.windows
        assert (settings.num_frames, settings.stride, settings.fps) == (NUM_FRAMES, NUM_FRAMES // 2, 2.0)
        windows = [found.window for batch in library.store.scan() for found in batch]
    assert {window.path for window in windows} == {(own / name).as_posix() for name in ("0.mp4", "1.mp4")}
    assert {(w.number, w.num_windows, w.start_seconds) for w in windows} == {(0, 1, 0.0)}
    assert {round(window.end_seconds, 3) for window in windows} == {1.0, 2.0}
    draw_clip(own / "1.mp4", "grow", seed=50, num_frames=12)
    (own / "0.mp4").rename(own / "moved.mp4")
    (own / "broken.mp4").write_text("hello")
    value = index(capsys, retrieval_run, own, own / "gone.mp4", "--into", lib, code=1)
    assert (value["embedded"], value["copied"], value["removed"], value["videos"]) == (1, 1, 1, 2)
    assert [Path(found["path"]).name for found in value["unreadable"]] == ["broken.mp4"]
    (own / "moved.mp4").unlink()
    (own / "broken.mp4").unlink()
    assert index(capsys, retrieval_run, own, "--into", lib)["missing"] == 1
    assert main(["index", str(retrieval_run), str(own), "--into", str(lib), "--prune"]) == 0
    shown = capsys.readouterr().out
    assert "1 videos, 1 windows (1 unchanged, 1 removed)" in shown


def test_windows_are_settable_and_kept(
    retrieval_run: Path, footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lib, night = tmp_path / "lib", footage / "night"
    value = index(capsys, retrieval_run, night, "--into", lib, "--frames", 4, "--stride", 3, "--fps", 5)
    # 1, 3 and 5 seconds at 5 frames a second: 5, 15 and 25 frames
    assert value["windows"] == 2 + 5 + 8
    assert index(capsys, retrieval_run, footage / "day", "--into", lib)["videos"] == 6
    for option, wanted in (("--frames", 5), ("--stride", 2), ("--fps", 2)):
        message = refused(capsys, retrieval_run, night, "--into", lib, option, wanted)
        assert f"{option}: {lib} has windows of 4 frames at 5 a second, every 3; got {wanted}" in message


def test_the_library_belongs_to_its_model(
    retrieval_run: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lib = tmp_path / "lib"
    index(capsys, retrieval_run, own, "--into", lib)
    other = write_retrieval_run(tmp_path / "other", seed=1)
    assert f"{lib} was indexed with another model than {other}" in refused(capsys, other, own, "--into", lib)
    moved = shutil.copytree(retrieval_run, tmp_path / "moved")
    assert index(capsys, moved, own, "--into", lib)["unchanged"] == 2
    with open_library(lib) as library:
        assert library.run == moved


def test_a_library_in_use_is_left_alone(
    retrieval_run: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = FolderLock(tmp_path / "lib" / "store").acquire()
    try:
        message = refused(capsys, retrieval_run, own, "--into", tmp_path / "lib")
    finally:
        lock.release()
    assert f"is in use by this very process ({os.getpid()})" in message
    assert not (tmp_path / "lib" / "store").exists()
    assert index(capsys, retrieval_run, own, "--into", tmp_path / "lib")["embedded"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--into", "lib"], "no video: name files, folders or globs"),
        (["clips", "--into", "lib"], "no such run folder: 'clips'"),
        (["{run}", "gone", "--into", "lib"], "gone: no such file"),
        (["{run}", "empty", "--into", "lib"], "empty: no video in this folder"),
        (["{run}", "empty/*.mp4", "--into", "lib"], "matches no video"),
        (["{run}", "{clips}"], "--into"),
        (["{run}", "{clips}", "--into", "empty/file.txt"], "is a file; a library is a folder"),
        (["{run}", "{clips}", "--into", "empty"], "no library and not empty: left as it is"),
        (["{run}", "{clips}", "--into", "lib", "--frames", "0"], "at least 1 frame; got 0"),
        (["{run}", "{clips}", "--into", "lib", "--stride", "9"], "stride must be from 1 to the window's 5 frames"),
        (["{run}", "{clips}", "--into", "lib", "--fps", "many"], "--fps: must be a number; got 'many'"),
        (["{run}", "{clips}", "--into", "lib", "--store", "lance"], "--store: must be qdrant-edge or flat"),
        (["{classifier}", "{clips}", "--into", "lib"], "is a recognition run, which knows no text"),
        (["{run}", "{classifier}", "{clips}", "--into", "lib"], "a library belongs to one run; got 2"),
    ],
)
def test_bad_words(
    retrieval_run: Path,
    trained: Path,
    footage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file.txt").write_text("mine")
    places = {"run": retrieval_run, "clips": footage, "classifier": trained}
    assert message in refused(capsys, *(word.format(**places) for word in words))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file.txt"]


def test_killed_at_random_moments_and_two_at_once(retrieval_run: Path, footage: Path, tmp_path: Path) -> None:
    """Three moments here; `kill_index.py` does any number of them."""
    options = {"kills": 3, "seed": 5, "pairs": 1, "store": "qdrant-edge"}
    words = [str(retrieval_run), str(footage), str(tmp_path / "work"), json.dumps(options)]
    done = subprocess.run([sys.executable, KILL_INDEX, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["videos"], len(value["kills"])) == (6, 3)
    assert sum(kill["killed"] for kill in value["kills"]) >= 2, "a process may be done before it is killed"
    for kill in value["kills"]:
        assert kill["equal"], kill
        # what was acknowledged is neither lost nor done again
        assert (kill["unchanged"], kill["embedded"]) == (kill["acknowledged"], 6 - kill["acknowledged"]), kill
    (pair,) = value["pairs"]
    assert pair["refused"]["codes"] == [0, 2]
    (message,) = pair["refused"]["messages"]
    assert "is in use by process" in message
    assert pair["waiting"] == {"codes": [0, 0], "messages": [], "equal": True}
    assert pair["refused"]["equal"]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    retrieval_run: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("side4video.search.indexing.index_footage", interrupted)
        assert main(["index", str(retrieval_run), str(own), "--into", str(tmp_path / "lib"), "--store", "flat"]) == 130
    assert "stopped; finished videos are kept: the same command goes on" in capsys.readouterr().err
    assert index(capsys, retrieval_run, own, "--into", tmp_path / "lib")["embedded"] == 2
