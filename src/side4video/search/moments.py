"""Windows that were found to moments: stretches of one video, each shown once.

Windows overlap, so a good moment is found several times. Around the best window of a stretch, neighbours that overlap
it join while their scores stay in the upper half between a typical window (the median of all that were scored) and that
best one: full width at half height. What overlaps a moment and is worse is part of its slope and is not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from side4video.search.store import Window


@dataclass(frozen=True)
class Moment:
    """A stretch of a video in seconds, with the score of its best window, and how many windows make it up."""

    path: str
    start_seconds: float
    end_seconds: float
    score: float
    num_windows: int = 1


def merge_windows(found: Sequence[tuple[Window, float]], top: int) -> list[Moment]:
    """The best `top` moments, best first, of windows with their scores."""
    if not found:
        return []
    floor = median(score for _, score in found)
    by_video: dict[tuple[str, str], list[tuple[Window, float]]] = {}
    for window, score in found:
        by_video.setdefault((window.path, window.content_hash), []).append((window, score))
    moments = [moment for windows in by_video.values() for moment in _moments(windows, floor)]
    return sorted(moments, key=lambda moment: (-moment.score, moment.path, moment.start_seconds))[:top]


def _moments(windows: list[tuple[Window, float]], floor: float) -> list[Moment]:
    """All moments of one video."""
    in_time = sorted(windows, key=lambda found: (found[0].start_seconds, found[0].number))
    free = set(range(len(in_time)))
    moments: list[Moment] = []
    for place in sorted(free, key=lambda i: (-in_time[i][1], i)):
        if place not in free:
            continue
        peak = in_time[place][1]
        members = {place}
        for step in (-1, 1):
            other = place + step
            while other in free and _overlap(in_time[other - step][0], in_time[other][0]):
                if in_time[other][1] < floor + 0.5 * (peak - floor):
                    break
                members.add(other)
                other += step
        start = min(in_time[i][0].start_seconds for i in members)
        end = max(in_time[i][0].end_seconds for i in members)
        free -= members
        # the slopes: what lies over the moment and did not join it
        free -= {i for i in free if in_time[i][0].start_seconds < end and in_time[i][0].end_seconds > start}
        moments.append(Moment(in_time[place][0].path, start, end, peak, len(members)))
    return moments


def _overlap(first: Window, second: Window) -> bool:
    return first.start_seconds < second.end_seconds and second.start_seconds < first.end_seconds
