"""Direction counts the true class against its opposite, and nothing else."""

from __future__ import annotations

import pytest
import torch

from side4video.demo.direction import direction_accuracy

NAMES = ["left", "right", "grow", "shrink", "wave"]
OPPOSITES = {"left": "right", "right": "left", "grow": "shrink", "shrink": "grow"}


def test_only_the_pair_counts() -> None:
    scores_VK = torch.tensor(
        [
            [0.2, 0.1, 0.9, 0.0, 0.0],  # left over right, though grow is on top: right
            [0.3, 0.2, 0.0, 0.0, 0.5],  # truly right: wrong
            [0.0, 0.0, 0.4, 0.4, 0.2],  # a tie: half
            [0.9, 0.0, 0.1, 0.2, 0.0],  # shrink over grow: right
            [0.9, 0.1, 0.0, 0.0, 0.0],  # wave has no opposite: left out
        ]
    )
    labels_V = torch.tensor([0, 1, 2, 3, 4])
    assert direction_accuracy(scores_VK, labels_V, NAMES, OPPOSITES) == pytest.approx(2.5 / 4)


def test_a_constant_model_is_at_chance() -> None:
    labels_V = torch.arange(4).repeat(3)
    assert direction_accuracy(torch.rand(5).expand(12, 5), labels_V, NAMES, OPPOSITES) == 0.5


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="no clip has a class with an opposite"):
        direction_accuracy(torch.rand(2, 5), torch.tensor([4, 4]), NAMES, OPPOSITES)
