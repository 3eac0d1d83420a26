"""The strip: every frame twice, bars whose direction and length are the numbers', and titles that fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from side4video.explain.attribution import Explanation
from side4video.explain.strip import draw_strip

FOR, AGAINST = (226, 92, 30), (70, 120, 190)


def explanation(moments: list[float]) -> Explanation:
    T = len(moments)
    contributions_LT = torch.tensor([moments, [0.0] * T])
    return Explanation(
        label="jump",
        target=1,
        score=0.75,
        maps_TYX=torch.ones(T, 2, 3),
        frames_T=torch.ones(T) / T,
        taps_L=torch.tensor([1.0, 0.0]),
        tap_names=("pixels", "block 3"),
        contributions_LT=contributions_LT,
        evidence=1.1,
        baseline=0.1,
    )


def columns(picture: np.ndarray, colour: tuple[int, int, int], left: int, right: int) -> int:
    """Most pixels of a colour in one column between two x."""
    return int((picture[:, left:right] == np.array(colour)).all(-1).sum(0).max())


def test_bars_have_the_length_and_sign_of_the_numbers() -> None:
    frames = np.full((3, 40, 60, 3), 128, np.uint8)
    strip = np.asarray(draw_strip(frames, explanation([2.0, -1.0, 0.5]), title="a.mp4", seconds_T=[0, 1, 2]))
    spans = [(18 + 174 * number + 40, 18 + 174 * number + 140) for number in range(3)]
    # the bars of the parts lie below, at the left, and are one line high
    # 64 pixels for the 3 from the highest to the lowest
    assert columns(strip[:400], FOR, *spans[0]) == pytest.approx(2 * 64 / 3, abs=1.5)
    assert columns(strip[:400], AGAINST, *spans[1]) == pytest.approx(64 / 3, abs=1.5)
    assert columns(strip[:400], FOR, *spans[2]) == pytest.approx(0.5 * 64 / 3, abs=1.5)


@pytest.mark.parametrize("count", [1, 8, 11])
def test_frames_stand_in_rows_of_eight(count: int) -> None:
    frames = np.full((count, 40, 60, 3), 128, np.uint8)
    strip = draw_strip(frames, explanation([1.0] * count), title="a.mp4", seconds_T=[0.5] * count)
    original = np.asarray(strip)
    in_place = [
        bool((original[62 + 330 * (n // 8) + 40, 18 + 174 * (n % 8) + 80] == 128).all()) for n in range(min(count, 8))
    ]
    assert all(in_place)
    assert strip.width == 36 + max(min(count, 8) * 174 - 6, 496)


def test_a_long_label_is_cut_to_the_width() -> None:
    frames = np.full((2, 40, 60, 3), 128, np.uint8)
    long = replace(explanation([1.0, 1.0]), label="a very long sentence " * 20)
    strip = np.asarray(draw_strip(frames, long, title="name" * 60, seconds_T=[0, 1]))
    assert (strip[:60, -18:] == 255).all()
    assert (strip[:60, -80:-18] < 128).any()


def test_numbers_of_frames_must_agree() -> None:
    frames = np.full((2, 40, 60, 3), 128, np.uint8)
    with pytest.raises(ValueError, match="explanation is of 3 frames; got 2 frames and 3 times"):
        draw_strip(frames, explanation([1.0] * 3), title="a.mp4", seconds_T=[0, 1, 2])
