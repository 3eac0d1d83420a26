"""Frame scores and segments on small tables."""

from __future__ import annotations

import pytest
import torch

from side4video.streaming.segments import default_thresholds, find_segments, frame_scores

LABELS = ("run", "jump", "rest")
HALF = torch.full((3,), 0.5)


def table(rows: str) -> torch.Tensor:
    """One frame a letter: r, j or s (rest) has 0.8, `.` nobody has half."""
    likely = {"r": [0.8, 0.1, 0.1], "j": [0.1, 0.8, 0.1], "s": [0.1, 0.1, 0.8], ".": [0.4, 0.35, 0.25]}
    return torch.tensor([likely[letter] for letter in rows])


def spans(rows: str, *, exclusive: bool = True, **options: float) -> list[tuple[str, float, float]]:
    times = [float(number) for number in range(len(rows) + 1)]
    found = find_segments(table(rows), times, LABELS, HALF, exclusive=exclusive, **options)
    return [(segment.label, segment.start_seconds, segment.end_seconds) for segment in found]


def test_a_frame_has_the_mean_of_its_windows() -> None:
    scores_WK = torch.tensor([[1.0, 0.0], [0.5, 0.25], [0.0, 4.0]])
    scores_FK = frame_scores(scores_WK, [0, 2, 3], [4, 3, 3], 6)
    expected = [[1, 0], [1, 0], [0.75, 0.125], [0.5, 4.25 / 3], [0.25, 2.125], [0, 4]]
    torch.testing.assert_close(scores_FK, torch.tensor(expected))
    with pytest.raises(ValueError, match="frame 3 is in no window"):
        frame_scores(scores_WK, [0, 0, 4], [3, 2, 2], 6)


def test_many_windows_leave_only_rounding() -> None:
    scores_WK = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(2))
    scores_FK = frame_scores(scores_WK, list(range(20_000)), [8] * 20_000, 20_007)
    torch.testing.assert_close(scores_FK[15_000], scores_WK[14_993:15_001].mean(0), atol=1e-6, rtol=0)


def test_stretches_of_one_label() -> None:
    assert spans("rr..jjjr") == [("run", 0, 2), ("jump", 4, 7), ("run", 7, 8)]
    assert spans("....") == []


def test_gaps_are_bridged_only_when_nobody_is_in_them() -> None:
    assert spans("rr.rr", gap_seconds=1) == [("run", 0, 5)]
    assert spans("rr..rr", gap_seconds=1) == [("run", 0, 2), ("run", 4, 6)]
    assert spans("rrjrr", gap_seconds=1) == [("run", 0, 2), ("jump", 2, 3), ("run", 3, 5)]


def test_short_ones_go_and_their_neighbours_meet() -> None:
    assert spans("rrjrr", gap_seconds=1, min_seconds=2) == [("run", 0, 5)]
    assert spans("r.r.jj", gap_seconds=1, min_seconds=3) == [("run", 0, 3)]


def test_sentences_are_independent() -> None:
    scores_FK = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.1, 0.9]])
    found = find_segments(scores_FK, [0.0, 1.0, 2.5, 4.0], ("a", "b"), torch.tensor([0.5, 0.6]), exclusive=False)
    assert [(part.start_seconds, part.end_seconds, part.label) for part in found] == [(0.0, 2.5, "a"), (1.0, 4.0, "b")]
    assert [part.score for part in found] == pytest.approx([0.85, 0.8])
    (only,) = find_segments(scores_FK, [0.0, 1.0, 2.5, 4.0], ("a", "b"), torch.tensor([0.85, 2.0]), exclusive=False)
    assert (only.start_seconds, only.end_seconds) == (0.0, 1.0)


def test_default_thresholds() -> None:
    scores_FK = torch.tensor([[0.0, -0.25], [0.5, 0.25], [1.0, 0.75]])
    assert default_thresholds(scores_FK, exclusive=True).tolist() == [0.5, 0.5]
    assert default_thresholds(scores_FK, exclusive=False).tolist() == [0.75, 0.5]
