"""Who is who: one session a browser, known by a random cookie, and what belongs to it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from side4video.app.footage import FoundMoment
    from side4video.app.videos import Video

_MAX_MOMENTS = 400


@dataclass
class Session:
    """One browser: its videos, by id, and the moments that it was shown."""

    is_trusted: bool
    last_seen: float = field(default_factory=time.monotonic)
    videos: dict[str, Video] = field(default_factory=dict["str", "Video"])
    moments: OrderedDict[str, FoundMoment] = field(default_factory=OrderedDict["str", "FoundMoment"])

    def keep_moment(self, moment: FoundMoment) -> str:
        """An id under which the moment can be played, until many others have been shown."""
        key = secrets.token_urlsafe(16)
        self.moments[key] = moment
        while len(self.moments) > _MAX_MOMENTS:
            self.moments.popitem(last=False)
        return key


class Sessions:
    """All sessions; the ones without videos that were seen longest ago make room for new ones.

    Cookies are kept as hashes: looking one up takes no time that tells anything about it.
    """

    def __init__(self, max_sessions: int = 10_000, keep_seconds: float = 7 * 86400.0) -> None:
        self._max, self._keep_seconds = max_sessions, keep_seconds
        self._by_hash: OrderedDict[bytes, Session] = OrderedDict()
        self._guard = Lock()

    def __iter__(self) -> Iterator[Session]:
        with self._guard:
            return iter(list(self._by_hash.values()))

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie, if there is one."""
        if not cookie:
            return None
        with self._guard:
            key = _hash(cookie)
            session = self._by_hash.get(key)
            if session is None or time.monotonic() - session.last_seen > self._keep_seconds:
                return None
            session.last_seen = time.monotonic()
            self._by_hash.move_to_end(key)
            return session

    def create(self, *, is_trusted: bool) -> tuple[str, Session]:
        """A new session and its cookie."""
        cookie, session = secrets.token_urlsafe(32), Session(is_trusted)
        with self._guard:
            if len(self._by_hash) >= self._max:
                idle = (key for key, other in self._by_hash.items() if not other.videos)
                self._by_hash.pop(next(idle, next(iter(self._by_hash))))
            self._by_hash[_hash(cookie)] = session
        return cookie, session

    def forget(self, cookie: str | None) -> Session | None:
        """End a session and give it back, so that what belongs to it can be removed."""
        with self._guard:
            return None if cookie is None else self._by_hash.pop(_hash(cookie), None)


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).digest()
