"""A clip that is drawn once, and an empty folder that must be empty again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.app.stub import write_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of six frames in 0.6 seconds, H.264 in mp4."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def temp(tmp_path: Path) -> Iterator[Path]:
    """Where a page keeps its uploads: nothing may be left when it has stopped."""
    folder = tmp_path / "temp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
