"""What all addresses of the page have in common: its models, visitors, videos and threads, from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from side4video.app.limits import Limits
from side4video.app.passwords import Password
from side4video.app.refusal import RefusalError
from side4video.app.sessions import Session, Sessions
from side4video.app.stages import Analysis
from side4video.app.videos import Video, Videos
from side4video.app.web import FastAPI, HTMLResponse
from side4video.app.worker import Worker
from side4video.app.workspace import Workspace

_SWEEP_SECONDS = 20.0
_MAX_QUESTIONS = 64
Result = TypeVar("Result")


@dataclass(frozen=True)
class Access:
    """Who may reach the page: the host names that it answers to, and its password."""

    names: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    is_public: bool = False
    password: Password | None = None
    cookie: str = "side4video"


class Pool:
    """Threads for one kind of work, with a bound on what waits for them."""

    def __init__(self, threads: int, name: str, what: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"side4video-app-{name}")
        self._what = what
        self._waiting = 0
        self._guard = threading.Lock()

    @property
    def waiting(self) -> int:
        """What is being done and what waits."""
        return self._waiting

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do it in a thread.

        Raises:
            RefusalError: too much waits already; and whatever the work raises.
        """
        with self._guard:
            if self._waiting >= _MAX_QUESTIONS:
                raise RefusalError(503, f"too many {self._what} at once; try again in a moment", retry_seconds=3)
            self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            with self._guard:
                self._waiting -= 1

    def close(self) -> None:
        """Drop what waits, and let the threads end."""
        self._threads.shutdown(cancel_futures=True)


class Page:
    """It owns the workspace of its analysis: when the server stops, the folder is removed."""

    def __init__(self, analysis: Analysis, access: Access) -> None:
        self.analysis, self.access = analysis, access
        self.limits: Limits = analysis.limits
        self.workspace: Workspace = analysis.workspace
        self.sessions = Sessions()
        self.videos = Videos(self.workspace, self.limits)
        self.intake = Pool(2, "intake", "uploads")
        # one at a time: a library is one database, and more threads would take each other's cores
        self.questions = Pool(1, "search", "searches")
        # those by a video decode it first, and texts need not wait for that
        self.comparisons = Pool(1, "compare", "searches by video")
        self.pictures = Pool(2, "pictures", "pictures")
        self.worker = Worker(analysis.stages(), self.videos, is_asked=lambda: self.questions.waiting > 0)
        self._templates = Environment(
            loader=PackageLoader("side4video.app"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        folder = files("side4video.app") / "static"
        self.static = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncGenerator[None]:
        """From start to stop of the server."""
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Stop working and remove everything."""
        self.worker.stop()
        for pool in (self.intake, self.questions, self.comparisons, self.pictures):
            pool.close()
        self.analysis.close()
        self.workspace.close()

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """One of our pages."""
        return HTMLResponse(self._templates.get_template(template).render(**values), status)

    def own_video(self, session: Session, video_id: object) -> Video:
        """One of the visitor's own videos.

        Raises:
            RefusalError: there is none of that id, for this visitor.
        """
        video = session.videos.get(video_id) if isinstance(video_id, str) else None
        if video is None:
            raise RefusalError(
                404, "there is no such video of yours; videos are removed some time after their last use"
            )
        video.touch()
        return video

    def video_json(self, video: Video) -> dict[str, Any]:
        """A video as the page's scripts get it."""
        return {
            "id": video.id,
            "name": video.name,
            "state": video.state,
            "is_pending": video.is_pending,
            "position": self.worker.position(video) if video.state == "waiting" else 0,
            "stage": video.stage,
            "progress": round(video.progress, 3),
            "error": video.error,
            "problems": dict(video.problems),
            "info": video.info,
            "results": dict(video.results),
        }

    async def _sweep(self) -> None:
        def forget(video: Video) -> None:
            for session in self.sessions:
                session.videos.pop(video.id, None)

        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.videos.sweep(forget)
            for library in self.analysis.footage:
                await asyncio.to_thread(library.close_idle)
