"""Runs the page until Ctrl-C or SIGTERM: uvicorn, with our own signals, so that everything is cleaned up first."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType

from side4video.app.web import ASGIApp, uvicorn

_GRACE_SECONDS = 3
_MAX_HEADER_BYTES = 32 * 1024


class PageServer(uvicorn.Server):
    """A server that leaves the process's signals alone; `on_ready` is called when it answers."""

    def __init__(self, page: ASGIApp, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                page,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="on",
                http="h11",
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are `serve`'s business."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and then say that it answers."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def serve(page: ASGIApp, listener: socket.socket, *, on_ready: Callable[[], None]) -> None:
    """Answer requests at `listener` until SIGTERM; a second Ctrl-C does not wait for anything.

    Raises:
        KeyboardInterrupt: Ctrl-C, after everything is cleaned up.
    """
    server = PageServer(page, on_ready)
    interrupted = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        server.force_exit = server.should_exit and number == signal.SIGINT
        server.should_exit = True
        if number == signal.SIGINT:
            interrupted.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted.is_set():
        raise KeyboardInterrupt("stopped; the uploads are deleted")
