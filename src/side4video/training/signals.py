"""Ctrl-C and SIGTERM as a wish to stop at the next step, so that a run can save first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Inside the `with`, the first SIGINT or SIGTERM is only noted in `received`; a second SIGINT interrupts at once.

    A signal to the whole process group ends data workers too. From then on their end is no error by itself: torch would
    raise one wherever the main process is, also while it saves.

    Outside the main thread, where Python has no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
