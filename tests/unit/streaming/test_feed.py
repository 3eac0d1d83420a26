"""A feed drops rather than falls behind, loses nothing when it need not, and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from side4video.errors import InputError, VideoError
from side4video.streaming.feed import Break, LiveFeed
from side4video.streaming.sources import LiveFrame


def frame(number: int) -> LiveFrame:
    return LiveFrame(number / 10, time.monotonic(), torch.full((3, 2, 4), number % 256, dtype=torch.uint8))


def numbers(items: list[LiveFrame | Break]) -> list[int]:
    return [round(10 * item.seconds) for item in items if isinstance(item, LiveFrame)]


class Burst:
    """All frames at once, and then word that they are there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = threading.Event()

    def __call__(self, stop: threading.Event) -> Iterator[LiveFrame]:
        yield from (frame(number) for number in range(self.count))
        self.done.set()


def test_who_falls_behind_gets_the_newest() -> None:
    burst = Burst(50)
    with LiveFeed(burst, name="a", capacity=4, live=True, ends=True) as feed:
        assert burst.done.wait(10)
        found = list(feed)
    assert numbers(found) == [46, 47, 48, 49]
    assert (feed.counts.read, feed.counts.dropped, feed.counts.reconnects) == (50, 46, 0)


def test_a_recording_waits_and_loses_nothing() -> None:
    burst = Burst(50)
    with LiveFeed(burst, name="a", capacity=4, live=False) as feed:
        assert not burst.done.wait(0.1), "nobody has taken a frame yet"
        found = list(feed)
    assert numbers(found) == list(range(50))
    assert (feed.counts.read, feed.counts.dropped) == (50, 0)


def test_a_stream_that_breaks_comes_back() -> None:
    calls: list[float] = []

    def broken(stop: threading.Event) -> Iterator[LiveFrame]:
        calls.append(time.monotonic())
        if len(calls) in (2, 3):
            raise VideoError("a", "connection refused")
        yield from (frame(10 * len(calls) + number) for number in range(3))
        if len(calls) == 1:
            raise VideoError("a", "connection reset")
        stop.wait(10)

    found: list[LiveFrame | Break] = []
    with LiveFeed(broken, name="a", capacity=9, live=True, first_pause_seconds=0.02) as feed:
        for item in feed:
            found.append(item)
            if len(numbers(found)) == 6:
                break
    assert numbers(found) == [10, 11, 12, 40, 41, 42]
    breaks = [item for item in found if isinstance(item, Break)]
    refused = [Break("connection refused", 0.04), Break("connection refused", 0.08)]
    assert breaks == [Break("connection reset", 0.02), *refused]
    assert feed.counts.reconnects == 3
    assert calls[3] - calls[2] >= 0.08


def test_a_source_that_was_never_there() -> None:
    def nothing(stop: threading.Event) -> Iterator[LiveFrame]:
        raise VideoError("a", "no such camera")
        yield

    with (
        LiveFeed(nothing, name="a", capacity=1, live=True) as feed,
        pytest.raises(VideoError, match="a: no such camera"),
    ):
        list(feed)
    with (
        LiveFeed(
            nothing, name="a", capacity=1, live=True, patient=True, give_up_seconds=0.15, first_pause_seconds=0.02
        ) as feed,
        pytest.raises(VideoError, match="a: no such camera; no frame for 0 seconds"),
    ):
        list(feed)
    assert feed.counts.reconnects == 3, "after 0.02, 0.04 and 0.08 seconds there was no time for 0.16 more"


def test_errors_of_a_recording_come_after_its_frames() -> None:
    def damaged(stop: threading.Event) -> Iterator[LiveFrame]:
        yield frame(0)
        raise VideoError("a", "damaged")

    found: list[LiveFrame | Break] = []
    with LiveFeed(damaged, name="a", capacity=3, live=False) as feed, pytest.raises(VideoError, match="a: damaged"):
        found.extend(feed)
    assert not isinstance(found, Break)


def test_a_file_is_played_at_its_speed() -> None:
    begun = time.monotonic()
    with LiveFeed(Burst(4), name="a", capacity=9, live=True, paced=True) as feed:
        times = [item.arrived - begun for item in feed if isinstance(item, LiveFrame)]
    assert len(times) == 4
    assert times[-1] - times[0] >= 0.29
    assert feed.counts.reconnects == 0


def test_leaving_stops_the_source() -> None:
    stopped = threading.Event()

    def endless(stop: threading.Event) -> Iterator[LiveFrame]:
        yield frame(0)
        stop.wait(10)
        stopped.set()

    with LiveFeed(endless, name="a", capacity=1, live=True) as feed:
        next(iter(feed))
    assert stopped.is_set()
    assert not feed._thread.is_alive()


def test_capacity_below_one() -> None:
    with pytest.raises(InputError, match="at least 1 frame must be able to wait; got 0"):
        LiveFeed(Burst(1), name="a", capacity=0, live=True)
