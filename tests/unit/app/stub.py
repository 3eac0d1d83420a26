"""A page without models: its stages are the test's, so that a test decides when they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from starlette.testclient import TestClient

from side4video.app.limits import Limits
from side4video.app.page import Access
from side4video.app.server import create_app
from side4video.app.stages import Analysis
from side4video.app.videos import Video
from side4video.app.worker import Progress, Stage
from side4video.app.workspace import Workspace

HOST = "http://localhost"


class StubAnalysis(Analysis):
    """Has the stages that it is given."""

    def __init__(self, workspace: Workspace, limits: Limits, stages: Sequence[Stage]) -> None:
        super().__init__(None, limits, workspace)
        self._stages = list(stages)

    def stages(self) -> list[Stage]:
        return self._stages


def answer(video: Video, progress: Progress) -> None:
    """A first stage that ends at once."""
    video.results["classes"] = [{"run": "stub", "predictions": [{"label": "yes", "score": 1.0}]}]


def open_page(
    temp: Path,
    *,
    limits: Limits | None = None,
    access: Access | None = None,
    run: Callable[[Video, Progress], None] = answer,
    more: Sequence[Stage] = (),
    base_url: str = HOST,
    **client: Any,
) -> TestClient:
    """A client of a new page; a context manager that starts and stops it."""
    chosen = limits or Limits()
    workspace = Workspace(chosen.max_disk_bytes, temp)
    analysis = StubAnalysis(workspace, chosen, [Stage("classes", "looking", run, is_needed=True), *more])
    return TestClient(create_app(analysis, access or Access()), base_url=base_url, **client)


def write_clip(
    path: Path, *, frames: int = 6, size: tuple[int, int] = (48, 32), codec: str = "libx264", rate: int = 10
) -> bytes:
    """A small video; `size` is width and height. Gives its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            picture_HWC = np.full((size[1], size[0], 3), 20 + 20 * (number % 10), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()
