"""A source read by a thread of its own: waits for nobody, or loses nothing, and comes back when it breaks off.

A live feed keeps the frames of a short time only. When whoever uses them is slower than they come, the oldest are
dropped and counted, so that what is shown is never older than that time. When the source breaks off, it is opened again
after a pause that doubles each time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from side4video.errors import InputError, VideoError
from side4video.streaming.sources import LiveFrame

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0


@dataclass(frozen=True)
class Break:
    """The source broke off, and is opened again after a pause: frames before and after do not belong together."""

    reason: str
    pause_seconds: float


@dataclass
class FeedCounts:
    """Frames that were read, and of them dropped; how often the source had to be opened again."""

    read: int = 0
    dropped: int = 0
    reconnects: int = 0


class LiveFeed:
    """Iterate over frames and breaks; the iterator ends with the source. Use it as a context manager.

    `open_source` gives the frames of a fresh connection, until the event it is given is set; `name` is what errors call
    it. `capacity` frames wait at most. With `live` the oldest is dropped when there are more, and a source that breaks
    off or ends is opened again (unless it `ends` for good); otherwise the source waits, its end is the end, and its
    error is raised. `paced`: frames are not taken before their own time, which plays a file at its speed; it ends for
    good. A source that could never be opened is an error, unless `patient`; one that gives no frame for
    `give_up_seconds` is too.

    Raises:
        InputError: a capacity below 1.
        VideoError: while iterating: as said above.
    """

    def __init__(
        self,
        open_source: Callable[[threading.Event], Iterator[LiveFrame]],
        *,
        name: str,
        capacity: int,
        live: bool,
        paced: bool = False,
        ends: bool = False,
        patient: bool = False,
        give_up_seconds: float | None = None,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        if capacity < 1:
            raise InputError(f"at least 1 frame must be able to wait; got {capacity}")
        self.counts = FeedCounts()
        self._name = name
        self._open = open_source
        self._capacity = capacity
        self._live, self._paced, self._patient = live, paced, patient
        self._returns = live and not paced and not ends
        self._give_up_seconds = give_up_seconds
        self._first_pause_seconds = first_pause_seconds
        self._waiting: deque[LiveFrame | Break] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="live feed", daemon=True)

    def __enter__(self) -> LiveFeed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        # a read from a network that is silent ends with its own time limit; nobody waits for that
        self._thread.join(timeout=2.0)

    def __iter__(self) -> Iterator[LiveFrame | Break]:
        while True:
            with self._changed:
                # in slices: a wait without end would not hear Ctrl-C on every system
                while not self._waiting and not self._ended:
                    self._changed.wait(0.2)
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item

    def _read(self) -> None:
        """What the thread does."""
        try:
            if self._returns:
                self._read_for_ever()
            else:
                self._read_once()
        except BaseException as error:  # noqa: BLE001 - raised where the frames are used
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read_for_ever(self) -> None:
        pause, last_frame, was_there = self._first_pause_seconds, time.monotonic(), False
        while not self._stop.is_set():
            reason = "it ended"
            try:
                for frame in self._open(self._stop):
                    pause, last_frame, was_there = self._first_pause_seconds, time.monotonic(), True
                    self._put(frame)
            except VideoError as error:
                if not was_there and not self._patient:
                    raise
                reason = error.reason
            if self._stop.is_set():
                return
            silent = time.monotonic() - last_frame
            if self._give_up_seconds is not None and silent + pause > self._give_up_seconds:
                raise VideoError(self._name, f"{reason}; no frame for {silent:.0f} seconds")
            self.counts.reconnects += 1
            with self._changed:
                self._waiting.append(Break(reason, pause))
                self._changed.notify_all()
            self._stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _read_once(self) -> None:
        begun: float | None = None
        for frame in self._open(self._stop):
            if self._paced:
                begun = time.monotonic() - frame.seconds if begun is None else begun
                self._stop.wait(max(0.0, begun + frame.seconds - time.monotonic()))
            if self._stop.is_set():
                return
            self._put(LiveFrame(frame.seconds, time.monotonic(), frame.pixels_CHW) if self._paced else frame)

    def _put(self, frame: LiveFrame) -> None:
        with self._changed:
            self.counts.read += 1
            if self._live:
                if sum(isinstance(item, LiveFrame) for item in self._waiting) >= self._capacity:
                    oldest = next(item for item in self._waiting if isinstance(item, LiveFrame))
                    self._waiting.remove(oldest)
                    self.counts.dropped += 1
            else:
                while len(self._waiting) >= self._capacity and not self._stop.is_set():
                    self._changed.wait(0.2)
            self._waiting.append(frame)
            self._changed.notify_all()
