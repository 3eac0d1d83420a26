"""Maps over frames: what matters is coloured, the rest is grey, moments keep their order of strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from side4video.explain import overlay

T, H, W = 3, 16, 24


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (T, H, W, 3)).astype(np.uint8)


def colourfulness(pixels: np.ndarray) -> float:
    values = pixels.astype(int)
    return float((values.max(-1) - values.min(-1)).mean())


def test_the_marked_place_is_coloured_and_the_rest_grey() -> None:
    maps = torch.zeros(T, 2, 3)
    maps[1, 0, 2] = 0.7
    before = frames()
    given = before.copy()
    painted = overlay(given, maps)
    np.testing.assert_array_equal(given, before)
    assert painted.shape == before.shape
    assert painted.dtype == np.uint8
    assert colourfulness(painted[1, :6, 18:]) > 60
    for grey in (painted[0], painted[2], painted[1, 12:, :10]):
        assert colourfulness(grey) <= 1
        assert grey.mean() < before.mean()


def test_moments_can_be_compared() -> None:
    maps = np.zeros((T, 1, 1), np.float32)
    maps[:, 0, 0] = [0.1, 0.4, 0.9]
    red = overlay(np.full((T, H, W, 3), 90, np.uint8), maps)[..., 0].mean((1, 2))
    assert red[0] < red[1] < red[2]
    np.testing.assert_array_equal(overlay(frames(), maps), overlay(frames(), 5 * maps))


def test_nothing_salient_and_nothing_at_all() -> None:
    painted = overlay(torch.from_numpy(frames()), torch.zeros(T, 2, 2))
    assert colourfulness(painted) <= 1
    assert overlay(np.zeros((0, H, W, 3), np.uint8), torch.zeros(0, 2, 2)).shape == (0, H, W, 3)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"THWC uint8 with 3 channels; got float64 of shape \(3, 16, 24, 3\)"):
        overlay(frames() / 255, torch.zeros(T, 2, 2))
    with pytest.raises(ValueError, match=r"one for each of 3 frames; got shape \(2, 2, 2\)"):
        overlay(frames(), torch.zeros(2, 2, 2))
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="numbers of at least 0"):
            overlay(frames(), torch.full((T, 2, 2), bad))
