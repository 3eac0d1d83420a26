"""The videos on the page: where each lies, how far it is, and what has been found out about it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from side4video.app.limits import Limits
from side4video.app.refusal import RefusalError
from side4video.app.workspace import Workspace

VideoState = Literal["uploading", "waiting", "running", "done", "failed"]
_MAX_NAME = 120


@dataclass
class Video:
    """One video of one visitor.

    `name` is what the visitor calls it, for showing only; `path` has nothing to do with it. `results` holds what the
    stages that are over found, as plain JSON values, by the stage's name; `kept` what they keep for later questions.
    """

    name: str
    path: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    upload: str = ""
    """What the visitor's browser calls the upload, which it can cancel before it has been told the id."""
    state: VideoState = "uploading"
    error: str = ""
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    results: dict[str, Any] = field(default_factory=dict[str, Any])
    kept: dict[str, Any] = field(default_factory=dict[str, Any])
    wishes: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the visitor asks of stages that run again."""
    pictures: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """JPEG pictures by the names that results call them by."""
    problems: dict[str, str] = field(default_factory=dict[str, str])
    """Stages that went wrong, and why; the others count."""
    stage: str = ""
    """The stage that runs or comes next."""
    progress: float = 0.0
    stages_done: int = 0
    is_cancelled: bool = False
    is_busy: bool = False
    """A stage is at work on its files."""
    last_seen: float = field(default_factory=time.monotonic)
    files: list[Path] = field(default_factory=list[Path])
    """What was made of it: a copy for the browser, pictures."""

    @property
    def is_pending(self) -> bool:
        """Whether its first result is still to come."""
        return self.state == "uploading" or (self.state in {"waiting", "running"} and not self.stages_done)

    def touch(self) -> None:
        """Somebody looks at it."""
        self.last_seen = time.monotonic()


class Videos:
    """The videos of all sessions, within the limits. Safe for several threads."""

    def __init__(self, workspace: Workspace, limits: Limits) -> None:
        self.workspace, self.limits = workspace, limits
        self._all: dict[str, Video] = {}
        self._guard = Lock()

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, name: str, owner: dict[str, Video]) -> Video:
        """A new video of the visitor whose videos are `owner`.

        Raises:
            RefusalError: too many wait already, or the visitor has too many.
        """
        with self._guard:
            self._check_room(owner)
            video = Video(shown_name(name), self.workspace.new_file())
            self._all[video.id] = owner[video.id] = video
            return video

    def refusal(self, owner: dict[str, Video]) -> str | None:
        """Why the visitor could upload nothing now."""
        try:
            with self._guard:
                self._check_room(owner)
        except RefusalError as refusal:
            return str(refusal)
        return None

    def _check_room(self, owner: dict[str, Video]) -> None:
        limits = self.limits
        if sum(video.is_pending for video in owner.values()) >= limits.max_waiting_each:
            raise RefusalError(
                429, f"{limits.max_waiting_each} of your videos wait already; wait for one of them", retry_seconds=5
            )
        if len(owner) >= limits.max_videos_each:
            raise RefusalError(
                429, f"you have {limits.max_videos_each} videos here, which is the most; remove one of them"
            )
        if sum(video.is_pending for video in self._all.values()) >= limits.max_waiting:
            raise RefusalError(
                503,
                f"the queue is full: {limits.max_waiting} videos wait already. Try again in a minute",
                retry_seconds=15,
            )

    def remove(self, video: Video, owner: dict[str, Video] | None = None) -> None:
        """Delete a video and all that was made of it; what is at work on it stops, and deletes when it has."""
        video.is_cancelled = True
        with self._guard:
            self._all.pop(video.id, None)
            if owner is not None:
                owner.pop(video.id, None)
        if not video.is_busy:
            self.delete_files(video)

    def delete_files(self, video: Video) -> None:
        """What is left of a removed video."""
        for path in (video.path, *video.files):
            self.workspace.remove(path)
        video.results.clear()
        video.kept.clear()
        video.pictures.clear()

    def sweep(self, forget: Callable[[Video], None]) -> None:
        """Remove videos that nobody has looked at for long; `forget` hears of each."""
        now = time.monotonic()
        with self._guard:
            old = [
                video
                for video in self._all.values()
                if now - video.last_seen > self.limits.keep_seconds and video.state in {"done", "failed"}
            ]
        for video in old:
            self.remove(video)
            forget(video)


def shown_name(name: str) -> str:
    """A file's name as it is shown: its last part, without what is no letter, and not too long.

    >>> shown_name("C:\\\\clips\\\\a b.mp4"), shown_name("../../etc/passwd"), shown_name("x\\x00\\u202ey.mp4")
    ('a b.mp4', 'passwd', 'xy.mp4')
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(letter for letter in last if letter.isprintable()).strip()
    if len(clean) > _MAX_NAME:
        clean = f"{clean[: _MAX_NAME - 12]}…{clean[-11:]}"
    return clean or "video"
