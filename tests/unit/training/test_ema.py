"""The moving average: its numbers, and that lending it to a model changes nothing for good."""

from __future__ import annotations

import pytest
import torch

from side4video.errors import CheckpointError
from side4video.training.ema import MovingAverage, copy_into


def test_average_follows_its_formula_with_a_short_memory_at_first() -> None:
    state = {"weight": torch.tensor([1.0, 2.0, 3.0]), "count": torch.tensor(5)}
    ema = MovingAverage(state, 0.9)
    expected = state["weight"].clone()
    for steps in range(1, 120):
        state["weight"] = torch.tensor([1.0, 2.0, 3.0]) + steps
        state["count"] = torch.tensor(5 + steps)
        ema.update(state, steps)
        decay = min(0.9, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * state["weight"]
    assert torch.allclose(ema.averages["weight"], expected, rtol=1e-6)
    assert ema.averages["count"] == 124


def test_lending_gives_back_the_own_values_also_after_an_error() -> None:
    state = {"weight": torch.tensor([1.0, 2.0]), "count": torch.tensor(5)}
    ema = MovingAverage(state, 0.5)
    ema.averages["weight"].fill_(7.0)
    seen: list[list[float]] = []

    def use() -> None:
        with ema.applied_to(state):
            seen.append(state["weight"].tolist())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        use()
    assert seen == [[7.0, 7.0]]
    assert state["weight"].tolist() == [1.0, 2.0]
    assert ema.averages["weight"].tolist() == [7.0, 7.0]


def test_what_does_not_fit_changes_nothing() -> None:
    state = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"b is \(4,\), expected \(3,\)"):
        copy_into(state, {"a": torch.ones(2), "b": torch.ones(4)})
    with pytest.raises(CheckpointError, match=r"differ in \['b'\]"):
        copy_into(state, {"a": torch.ones(2)})
    assert state["a"].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1.0"):
        MovingAverage(state, 1.0)
