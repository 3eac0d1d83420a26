"""Do windows of time and lists of numbers become the right frames?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from side4video.data.frames import check_indices, frame_range
from side4video.errors import InputError

STEADY = np.arange(50) / 25


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, range(50)),
        (0, None, range(50)),
        (None, 0.04, range(1)),
        (0.2, 0.4, range(5, 10)),
        (0.2000001, 0.4, range(5, 10)),  # within the clock's rounding
        (0.21, 0.23, range(5, 6)),  # between two frames: the one on screen
        (1.9, 99.0, range(48, 50)),
        (1.97, 1.98, range(49, 50)),
        (1.99, None, range(49, 50)),  # the last frame is on screen until 2.0
    ],
)
def test_window(start: float | None, end: float | None, expected: range) -> None:
    assert frame_range(STEADY, start, end, "v.mp4") == expected


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (0.4, 0.4, "must have 0 <= start < end; got 0.4 to 0.4"),
        (-1, 0.4, "must have 0 <= start"),
        (float("nan"), 1, "must have 0 <= start"),
        (float("inf"), None, "must have 0 <= start"),
        (2.5, 3.0, r"starts at 2.5 seconds, after the last frame \(1.960\) of v.mp4"),
    ],
)
def test_windows_that_are_none(start: float, end: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frame_range(STEADY, start, end, "v.mp4")


def test_a_single_frame_is_on_screen_all_the_time() -> None:
    assert frame_range(np.array([0.0]), 3.0, 4.0, "v.mp4") == range(1)


@given(st.lists(st.floats(0.01, 3), min_size=2, max_size=12), st.floats(0, 5), st.floats(0.01, 5))
def test_a_window_is_never_empty_and_holds_what_is_shown_in_it(steps: list[float], start: float, length: float) -> None:
    times = np.cumsum([0, *steps])
    if start >= times[-1]:
        return
    found = frame_range(times, start, start + length, "v.mp4")
    inside = {i for i, t in enumerate(times) if start + 2e-3 < t < start + length - 2e-3}
    assert len(found) >= 1
    assert inside <= set(found) <= set(range(len(times)))
    # nothing that has left the screen before, nothing that comes after
    assert all(i + 1 >= len(times) or times[i + 1] > start - 2e-3 for i in found)
    assert all(times[i] < start + length + 2e-3 for i in found)


def test_numbers_may_be_any_integers() -> None:
    assert check_indices(np.array([3, 0], np.uint8), 4, "v") == [3, 0]
    assert check_indices(range(2), 4, "v") == [0, 1]
    with pytest.raises(InputError, match=r"frame number 4 of v.mp4 is not in 0..3"):
        check_indices([0, 4], 4, "v.mp4")
    with pytest.raises(InputError, match="frame numbers must be integers"):
        check_indices([0.5], 4, "v.mp4")  # type: ignore[list-item]
