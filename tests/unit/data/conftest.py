"""The test videos, encoded when first asked for and kept for the next run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from assets import make_assets


@pytest.fixture(scope="session")
def video() -> Callable[[str], Path]:
    """Path of a test video by its name in the catalogue."""
    folder = make_assets.GENERATED / f"v{make_assets.VERSION}-av{av.__version__}"
    folder.mkdir(parents=True, exist_ok=True)

    def path(name: str) -> Path:
        target = folder / name
        if not target.exists():
            # several test processes may encode the same video: each writes its own, the last rename wins
            with tempfile.TemporaryDirectory(dir=folder) as own, make_assets.quiet():
                make_assets.encode(Path(own) / name, make_assets.BY_NAME[name])
                (Path(own) / name).replace(target)
        return target

    return path
