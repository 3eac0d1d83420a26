"""The learning rate of every iteration against the released code's curves, and the multistep rule in its notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from side4video.config.groups import OptimSettings
from side4video.training.optim import Schedule


def _curves(parity_dir: Path) -> list[dict[str, Any]]:
    return json.loads((parity_dir / "lr.json").read_text())["recognition"]


@pytest.mark.parametrize("case", [0, 1])
def test_cosine_equals_the_released_code(parity_dir: Path, case: int) -> None:
    curve = _curves(parity_dir)[case]
    settings = OptimSettings(
        epochs=curve["epochs"],
        warmup_epochs=curve["lr_warmup_step (epochs)"],
        lr=curve["base_lr"],
        schedule=curve["type"],
        schedule_every="official",
    )
    batches = curve["iterations_per_epoch"]
    schedule = Schedule(settings, batches)
    ours = [schedule.rate(epoch, batch) for epoch in range(curve["epochs"]) for batch in range(batches)]
    assert len(ours) == len(curve["lr_per_iteration"]) == curve["epochs"] * batches
    # the same formula; only the order of roundings may differ
    assert ours == pytest.approx(curve["lr_per_iteration"], rel=1e-12, abs=1e-18)
    assert ours[:9] == [0.0] * 9


def test_multistep_follows_the_notes() -> None:
    settings = OptimSettings(
        epochs=7, warmup_epochs=2, lr=1e-3, schedule="multistep", milestones=[5, 3], schedule_every="official"
    )
    schedule = Schedule(settings, 23)

    def slow(epoch: int, iteration: int) -> float:
        looked_at = [i for i in range(iteration + 1) if i == 0 or (i + 1) % 10 == 0][-1]
        t = epoch + looked_at / 23
        if t < 2:
            return 1e-3 * t / 2
        return 1e-3 * 0.1 ** sum(t >= milestone for milestone in (3, 5))

    for epoch in range(7):
        for iteration in range(23):
            assert schedule.rate(epoch, iteration) == pytest.approx(slow(epoch, iteration), rel=1e-12)


def test_per_step_rate_moves_every_step_and_never_is_zero() -> None:
    schedule = Schedule(OptimSettings(epochs=5, warmup_epochs=2, lr=1e-3, accumulate=3), 11)
    assert schedule.steps_per_epoch == 4
    ends = [2, 5, 8, 10]
    rates = [schedule.rate(epoch, batch) for epoch in range(5) for batch in ends]
    assert min(rates) > 0
    assert len(set(rates)) == len(rates)
    assert rates[:8] == sorted(rates[:8])
    assert rates[8:] == sorted(rates[8:], reverse=True)
    assert max(rates) < 1e-3
    # the middle of the first step, on the line from 0 to lr over two epochs of four steps
    assert rates[0] == pytest.approx(1e-3 * 0.5 / 8)


def test_constant_keeps_the_rate_after_the_warm_up() -> None:
    schedule = Schedule(OptimSettings(epochs=4, warmup_epochs=0, lr=3e-4, schedule="constant"), 3)
    assert {schedule.rate(epoch, batch) for epoch in range(4) for batch in range(3)} == {3e-4}
