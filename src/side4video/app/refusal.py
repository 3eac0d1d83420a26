"""What the page refuses, with the status of HTTP that says so."""

from __future__ import annotations

from side4video.errors import InputError


class RefusalError(InputError):
    """A request that is not done; the message is shown to the visitor."""

    def __init__(self, status: int, message: str, *, retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds
