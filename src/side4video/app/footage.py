"""A library of footage on the page: what was found in it, and how it is played."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FoundMoment:
    """A moment that a visitor was shown: a video of a library by its path there, from start to end."""

    library: int
    path: str
    start_seconds: float
    end_seconds: float
