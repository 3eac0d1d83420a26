"""A class is in the motion, its direction only in the order of the frames."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from side4video.data.motions import MOTION_PAIRS, NUM_FRAMES, PICTURE_SIDES, draw_motion, motion_classes, opposites


def test_classes_come_in_pairs() -> None:
    classes = motion_classes()
    assert len(classes) == len(set(classes)) >= 10
    pairs = opposites()
    assert set(pairs) == set(classes)
    assert all(pairs[pairs[name]] == name != pairs[name] for name in classes)


@pytest.mark.parametrize("pair", MOTION_PAIRS, ids=lambda pair: pair.forward)
def test_a_class_is_its_opposite_played_backward(pair) -> None:
    for seed in range(5):
        forward, backward = (draw_motion(name, np.random.default_rng(seed)) for name in (pair.forward, pair.backward))
        np.testing.assert_array_equal(forward.frames_THWC, backward.frames_THWC[::-1])
        assert forward.frame_rate == backward.frame_rate
        assert forward.caption == backward.caption.replace(pair.backward_words, pair.forward_words)
        assert (forward.frames_THWC != backward.frames_THWC).any()


def weight(frame_HWC: np.ndarray, empty_HWC: np.ndarray) -> np.ndarray:
    return np.clip(np.abs(frame_HWC.astype(float) - empty_HWC).max(axis=2) - 30, 0, None)


@pytest.mark.parametrize(
    ("name", "axis", "sign"), [("move-left", 1, -1), ("move-right", 1, 1), ("move-up", 0, -1), ("move-down", 0, 1)]
)
def test_the_shape_goes_where_the_name_says(name: str, axis: int, sign: int) -> None:
    for seed in range(8):
        frames = draw_motion(name, np.random.default_rng(seed)).frames_THWC
        empty = np.median(frames, axis=0)
        places: list[float] = []
        for frame in (frames[0], frames[-1]):
            share = weight(frame, empty)
            places.append(float((share * np.indices(share.shape)[axis]).sum() / share.sum()))
        assert sign * (places[1] - places[0]) > 8, (seed, places)


def test_clips_vary_alike_in_every_class() -> None:
    """What differs between clips of one class is drawn from the same distribution in all of them."""
    kinds: dict[str, Counter[str]] = {}
    for number, name in enumerate(("move-left", "turn-clockwise", "vanish")):
        clips = [draw_motion(name, np.random.default_rng([number, seed])) for seed in range(150)]
        assert {len(c.frames_THWC) for c in clips} == set(range(NUM_FRAMES[0], NUM_FRAMES[1] + 1))
        assert {c.frames_THWC.shape[2] for c in clips} == set(PICTURE_SIDES)
        kinds[name] = Counter(c.caption.split()[3] for c in clips)
        assert len(kinds[name]) == 10, kinds[name]
        assert max(kinds[name].values()) < 35


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(KeyError, match="move-sideways"):
        draw_motion("move-sideways", np.random.default_rng(0))
