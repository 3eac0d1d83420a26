"""The one thread that runs the model: stage after stage of video after video.

Each video passes the stages in order. First stages of all videos come before anybody's second ones, so that a long
timeline keeps nobody waiting for a first answer.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from side4video.app.limits import in_time
from side4video.app.refusal import RefusalError
from side4video.app.videos import Video, Videos
from side4video.errors import Side4VideoError, VideoError

logger = logging.getLogger(__name__)
Progress = Callable[[float], None]
_PAUSE_SECONDS = 0.2


class CancelledError(Exception):
    """The visitor has removed the video that a stage is at work on, or the page stops."""


@dataclass(frozen=True)
class Stage:
    """One step of the work on a video: `run(video, progress)` puts what it finds into the video.

    `is_needed`: without it nothing of the video can be shown, so a failure is the video's.
    """

    name: str
    label: str
    run: Callable[[Video, Progress], None]
    is_needed: bool = False


class _Task(NamedTuple):
    """In the order in which tasks are done."""

    stage: int
    number: int
    video: Video
    alone: bool


class Worker:
    """Runs `stages` on every video that is handed to `submit`, until `stop`.

    While `is_asked` says that somebody waits for a quick answer, the work pauses a little at each piece of progress.
    """

    def __init__(
        self, stages: Sequence[Stage], videos: Videos, *, is_asked: Callable[[], bool] = lambda: False
    ) -> None:
        self.stages, self._videos, self._is_asked = stages, videos, is_asked
        self._tasks: list[_Task] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._current: Video | None = None
        self._stops = False
        self._thread = threading.Thread(target=self._work, name="side4video-app-worker", daemon=True)
        self._thread.start()

    def submit(self, video: Video, first_stage: int = 0, *, alone: bool = False) -> None:
        """Put a video at the end of the queue, for all stages from one on, or for that one `alone`."""
        with self._changed:
            video.state, video.stage, video.progress = "waiting", self.stages[first_stage].label, 0.0
            heapq.heappush(self._tasks, _Task(first_stage, next(self._count), video, alone))
            self._changed.notify()

    def again(self, video: Video, stage: str) -> None:
        """Run one stage of a video again, with what the visitor has asked for since.

        Raises:
            RefusalError: the page has no such stage, or the video is being worked on.
        """
        names = [known.name for known in self.stages]
        if stage not in names:
            raise RefusalError(404, "this page cannot do that")
        if video.state != "done":
            raise RefusalError(409, "this video is still being worked on; ask again when it is done", retry_seconds=3)
        video.problems.pop(stage, None)
        self.submit(video, names.index(stage), alone=True)

    def position(self, video: Video) -> int:
        """How many videos come before this one; 0 for the one at work, and for one that does not wait."""
        with self._changed:
            ordered = [task.video for task in sorted(self._tasks)]
            if video not in ordered:
                return 0
            return ordered.index(video) + (self._current is not None)

    def stop(self, wait_seconds: float = 10.0) -> None:
        """Let the thread end, at the next piece of progress of what it does."""
        with self._changed:
            self._stops = True
            self._changed.notify()
        self._thread.join(wait_seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._stops:
                    self._changed.wait()
                if self._stops:
                    return
                task = heapq.heappop(self._tasks)
                number, video = task.stage, task.video
                if video.is_cancelled:
                    self._videos.delete_files(video)
                    continue
                self._current, video.is_busy = video, True
                video.state, video.stage, video.progress = "running", self.stages[number].label, 0.0
            is_over = self._run(self.stages[number], video)
            video.stages_done = max(video.stages_done, number + 1)
            with self._changed:
                self._current, video.is_busy = None, False
            if video.is_cancelled:
                self._videos.delete_files(video)
            elif is_over or task.alone or number + 1 == len(self.stages):
                video.state = "failed" if video.error else "done"
            else:
                self.submit(video, number + 1)

    def _run(self, stage: Stage, video: Video) -> bool:
        """Run one stage; True when nothing can follow it."""

        limit = self._videos.limits.max_work_seconds
        deadline = time.monotonic() + limit

        def tell(share: float) -> None:
            video.progress = share
            if video.is_cancelled or self._stops:
                raise CancelledError
            if time.monotonic() > deadline:
                raise RefusalError(413, f"this video takes more than {in_time(limit)} here and was given up")
            patience = time.monotonic() + _PAUSE_SECONDS
            while self._is_asked() and time.monotonic() < patience:
                time.sleep(0.005)

        try:
            stage.run(video, tell)
        except CancelledError:
            return True
        except (Side4VideoError, OSError, MemoryError) as error:
            message = reason(error)
        except Exception:  # the next visitor's video must still find a worker
            logger.exception("%s: stage %s failed", video.id, stage.name)
            message = "something went wrong in the server; its log says what"
        else:
            return False
        video.problems[stage.name] = message
        if stage.is_needed:
            video.error = message
        return stage.is_needed


def reason(error: BaseException) -> str:
    """What an error says of a visitor's video, without the server's paths."""
    if isinstance(error, VideoError):
        return f"this video cannot be read: {error.reason.partition(';')[0]}"
    if isinstance(error, RefusalError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the server has not enough memory for this video"
    if isinstance(error, OSError):
        return f"the server cannot work on this video: {error.strerror or type(error).__name__}"
    logger.warning("%s", error)
    return str(error)
