"""A small data set of real files and one trained run, made once for all tests of commands."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from run.app_pages import AppMaterial, make_app_material
from run.browser import browser
from run.retrieval_runs import write_retrieval_run
from run.small_runs import CLASSES, TRAIN_CLIPS, VAL_CLIPS, draw_clip, settings
from side4video.cli.main import main

__all__ = ["browser"]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` and `val`, each with a folder a class."""
    folder = tmp_path_factory.mktemp("clips")
    for split, count, first in (("train", TRAIN_CLIPS, 0), ("val", VAL_CLIPS, 100)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                draw_clip(folder / split / name / f"{number}.mp4", name, seed=first + 10 * label + number)
    return folder


@pytest.fixture(scope="session")
def trained(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two epochs. Whoever changes it must copy it: a test that wrote into it is found out at the end."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    words = ["train", str(clips / "train"), "--val", str(clips / "val"), "--out", str(out), "--epochs", "2"]
    assert main([*words, *settings()]) == 0
    files = sorted(out.rglob("*"))
    yield out
    assert sorted(out.rglob("*")) == files, "a test wrote into the shared run"


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="session")
def retrieval_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained retrieval run. Not for changing."""
    return write_retrieval_run(tmp_path_factory.mktemp("runs") / "retrieval")


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 1 to 6 seconds in two folders, to be indexed. Not for changing."""
    folder = tmp_path_factory.mktemp("footage")
    for number in range(6):
        path = folder / ("day" if number % 2 else "night") / f"{number}.mp4"
        draw_clip(path, CLASSES[number % 3], seed=number, num_frames=10 * (number + 1))
    return folder


@pytest.fixture(scope="session")
def app_material(tmp_path_factory: pytest.TempPathFactory) -> AppMaterial:
    """A classifier of colours, trained; a retrieval run; a library; videos to upload. Copy what you change."""
    return make_app_material(tmp_path_factory.mktemp("app"))
