"""Lists named relative to `data.root`."""

from __future__ import annotations

from pathlib import Path

import pytest

from side4video.config.load import load_settings
from side4video.config.paths import locate_data
from side4video.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `data` with lists; the working directory is beside it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    folder = tmp_path / "data"
    (folder / "lists").mkdir(parents=True)
    for name in ("train.txt", "lists/val.txt", "classes.csv"):
        (folder / name).write_text("")
    return folder


def test_relative_lists_are_found_under_the_root(root: Path) -> None:
    given = {"data.train": "train.txt", "data.val": "lists/val.txt", "data.classes": "classes.csv"}
    settings = load_settings(None, {**given, "data.root": str(root)})
    found = locate_data(settings)
    names = (found.data.train, found.data.val, found.data.classes)
    assert names == tuple(str(root / name) for name in given.values())
    assert found.data.root == str(root)
    assert locate_data(found) == found
    other = settings.model_copy(update={"data": settings.data.model_copy(update={"root": None})})
    assert locate_data(other) is other, "without a root a name means what it says"


def test_a_relative_root_gives_full_paths(root: Path) -> None:
    settings = load_settings(None, {"data.train": "train.txt", "data.root": "../data"})
    found = locate_data(settings)
    assert found.data.train is not None
    assert Path(found.data.train).is_absolute()
    assert Path(found.data.train).resolve() == root / "train.txt"
    # and again, from a folder where the same words could mean another file
    (root / "data").mkdir()
    assert locate_data(found) == found


def test_what_is_not_under_the_root_stays_as_written(root: Path) -> None:
    Path("own.txt").write_text("")
    absolute = root / "lists" / "val.txt"
    settings = load_settings(
        None,
        {"data.train": "own.txt", "data.val": str(absolute), "data.classes": "gone.csv", "data.root": str(root)},
    )
    assert locate_data(settings) == settings


def test_two_files_of_one_name_are_an_error_and_one_file_is_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(None, {"data.train": "train.txt", "data.root": str(root)})
    Path("train.txt").write_text("another")
    with pytest.raises(ConfigError, match=r"data.train=train.txt is in the working directory and in data.root="):
        locate_data(settings)
    monkeypatch.chdir(root)
    assert locate_data(settings).data.train == str(root / "train.txt")
