"""Times and subtitles, as people and players read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from side4video.streaming.clock import clock, subtitle_clock
from side4video.streaming.segments import Segment
from side4video.streaming.timeline import Timeline
from side4video.streaming.write import as_csv, as_srt


@pytest.mark.parametrize(
    ("seconds", "short", "subtitle"),
    [
        (0, "0:00.0", "00:00:00,000"),
        (61.25, "1:01.2", "00:01:01,250"),
        (59.9996, "1:00.0", "00:01:00,000"),
        (3599.96, "1:00:00.0", "00:59:59,960"),
        (36_000.5, "10:00:00.5", "10:00:00,500"),
    ],
)
def test_times_are_rounded_and_carried(seconds: float, short: str, subtitle: str) -> None:
    assert (clock(seconds), subtitle_clock(seconds)) == (short, subtitle)


def line_of(*segments: Segment, exclusive: bool) -> Timeline:
    labels = tuple(segment.label for segment in segments)
    scores = torch.zeros(1, len(labels))
    return Timeline(
        path=Path("long, really.mp4"), model="runs/mine", labels=labels, fps=2, duration_seconds=9, window_seconds=4,
        window_starts_seconds=(0.0,), frame_times_seconds=(0.0,), scores_WK=scores, scores_FK=scores,
        threshold_K=scores[0], exclusive=exclusive, segments=segments,
    )  # fmt: skip


def test_a_label_with_line_breaks_does_not_end_its_subtitle() -> None:
    segments = (Segment(0, 1.9996, "a dog\n\njumps", 0.714), Segment(2, 4.5, "it\tswims", 0.2))
    expected = "1\n00:00:00,000 --> 00:00:02,000\na dog jumps (71 %)\n\n"
    assert (
        as_srt(line_of(*segments, exclusive=True)) == f"{expected}2\n00:00:02,000 --> 00:00:04,500\nit swims (20 %)\n\n"
    )
    # similarities are no shares
    assert "a dog jumps (0.714)" in as_srt(line_of(*segments, exclusive=False))


def test_a_table_quotes_what_holds_commas() -> None:
    rows = as_csv([line_of(Segment(0, 1.5, "wave, hand", 0.5), exclusive=True)]).splitlines()
    assert rows == ["path,run,start,end,label,score", '"long, really.mp4",runs/mine,0.000,1.500,"wave, hand",0.5']
