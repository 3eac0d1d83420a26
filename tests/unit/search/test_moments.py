"""Windows to moments: neighbours join while they are good, slopes are not shown, videos stay apart."""

from __future__ import annotations

from side4video.search.moments import Moment, merge_windows
from side4video.search.store import Window


def windows(path: str, *scores: float, first: int = 0) -> list[tuple[Window, float]]:
    """Windows of 4 seconds, 2 apart, with these scores."""
    return [
        (Window(path, f"hash of {path}", n, 99, 2.0 * n, 2.0 * n + 4, 2.0), score)
        for n, score in enumerate(scores, first)
    ]


def test_neighbours_in_the_upper_half_join() -> None:
    # the median is 0.1, the peak 0.9: neighbours from 0.5 on join
    found = windows("a", 0.1, 0.1, 0.45, 0.6, 0.9, 0.5, 0.1, 0.1, 0.1)
    (first, *rest) = merge_windows(found, 10)
    assert first == Moment("a", 6, 14, 0.9, 3)
    # windows 2 and 6 (from 4 and 12) lie over it and are its slopes; 0, 1, 7 and 8 do not touch it
    assert [(m.start_seconds, m.end_seconds) for m in rest] == [(0, 6), (14, 20)]


def test_a_second_peak_is_a_moment_of_its_own() -> None:
    found = windows("a", 0.8, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0)
    moments = merge_windows(found, 2)
    assert [(m.start_seconds, m.end_seconds, m.score) for m in moments] == [(0, 4, 0.8), (8, 12, 0.7)]


def test_a_dip_ends_a_moment() -> None:
    found = windows("a", 0.9, 0.2, 0.9, 0.0, 0.0, 0.0, 0.0)
    moments = merge_windows(found, 2)
    assert [(m.start_seconds, m.end_seconds) for m in moments] == [(0, 4), (4, 8)]


def test_a_gap_in_what_was_found_ends_a_moment() -> None:
    found = windows("a", 0.9, 0.8) + windows("a", 0.9, first=4) + windows("b", 0.0, 0.0, 0.0, 0.0)
    assert [(m.path, m.start_seconds, m.end_seconds) for m in merge_windows(found, 2)] == [("a", 0, 6), ("a", 8, 12)]


def test_videos_stay_apart_and_the_best_come_first() -> None:
    found = windows("a", 0.3, 0.0, 0.0) + windows("b", 0.9, 0.0, 0.0) + windows("c", 0.3, 0.0, 0.0)
    assert [(m.path, m.score) for m in merge_windows(found, 3)] == [("b", 0.9), ("a", 0.3), ("c", 0.3)]
    assert len(merge_windows(found, 1)) == 1


def test_one_window_and_none() -> None:
    assert merge_windows(windows("a", -0.2), 5) == [Moment("a", 0, 4, -0.2, 1)]
    assert merge_windows([], 5) == []


def test_equal_scores_make_one_moment() -> None:
    assert merge_windows(windows("a", 0.5, 0.5, 0.5), 5) == [Moment("a", 0, 8, 0.5, 3)]
