"""What tests of the web page use: runs, a library and videos whose right answers are known, and a server of them."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from side4video.app.build import build_analysis
from side4video.app.limits import Limits
from side4video.app.page import Access
from side4video.app.passwords import Password
from side4video.app.serve import PageServer
from side4video.app.server import create_app

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))

import app_material as material  # noqa: E402

OVERRIDES = {"train.accelerator": "cpu"}


@dataclass(frozen=True)
class AppMaterial:
    """Folders and files: `colours` and `words` are runs, `lib` a library; the videos are to be uploaded.

    `two_colours` shows red for three seconds and then blue for three, in H.264; `green` is an avi that no browser
    plays.
    """

    colours: Path
    words: Path
    lib: Path
    footage: Path
    two_colours: Path
    green: Path


def make_app_material(folder: Path) -> AppMaterial:
    """Drawn, trained and indexed."""
    clips = material.write_train_clips(folder / "clips")
    words = material.write_retrieval_run(folder / "words")
    return AppMaterial(
        colours=material.train_classifier(clips, folder / "colours"),
        words=words,
        lib=material.write_library(words, folder / "footage", folder / "lib"),
        footage=folder / "footage",
        two_colours=material.write_video(folder / "two colours.mp4", [("red", 3), ("blue", 3)], seed=7),
        green=material.write_video(folder / "green.avi", [("green", 3)], seed=8, codec="mpeg4"),
    )


@contextlib.contextmanager
def running_page(
    runs: list[Path], libraries: list[Path], *, limits: Limits, temp: Path, password: str | None = None
) -> Generator[str]:
    """A server in a thread; gives its address."""
    analysis = build_analysis(runs, [str(path) for path in libraries], overrides=OVERRIDES, limits=limits, temp=temp)
    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        access = Access(cookie=f"side4video-{port}", password=None if password is None else Password(password))
        server = PageServer(create_app(analysis, access), ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(20), "the server did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
            assert list(temp.iterdir()) == [], "uploads were left behind"
