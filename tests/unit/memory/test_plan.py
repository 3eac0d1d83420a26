"""The order of choices, the largest batch, and sizes in words."""

from __future__ import annotations

import pytest

from side4video.errors import InputError
from side4video.memory.cards import Card
from side4video.memory.estimate import StepEstimate
from side4video.memory.plan import MODES, RESERVED_BYTES, make_plan, parse_bytes
from side4video.memory.track import Operation
from side4video.side.network import MemoryMode

MIB = 2**20
# bytes a clip, and arithmetic a clip
PER_CLIP = {"fast": (300 * MIB, 100), "balanced": (60 * MIB, 110), "lean": (30 * MIB, 110), "smallest": (20 * MIB, 120)}


def estimate(memory: MemoryMode, batch_size: int) -> StepEstimate:
    num_bytes, flops = PER_CLIP[memory]
    return StepEstimate(
        peak_bytes=500 * MIB + num_bytes * batch_size,
        by_cause={},
        saved_bytes=0,
        host_bytes=0,
        flops_forward=50 * batch_size,
        flops_step=flops * batch_size,
        trainable_parameters=7,
        operations=(Operation(10**12 * batch_size, 10**6),),
    )


def plan_for(budget: int | None, *, memory: MemoryMode = "balanced", batch_size: int = 32):
    return make_plan(estimate, memory=memory, batch_size=batch_size, budget_bytes=budget)


def test_the_largest_batch_of_each_mode_just_fits() -> None:
    budget = 4000 * MIB
    plan = plan_for(budget)
    largest = {c.memory: c.batch_size for c in plan.choices if c.batch_size != 32}
    room = budget - RESERVED_BYTES - 500 * MIB
    assert largest == {mode: room // PER_CLIP[mode][0] for mode in MODES}
    assert all(c.peak_bytes + RESERVED_BYTES <= budget for c in plan.choices if c.fits)


def test_a_batch_far_from_what_was_asked_is_no_choice() -> None:
    assert max(c.batch_size for c in plan_for(10**12, batch_size=4).choices) == 32


def test_what_fits_comes_first_then_the_batch_asked_for_then_less_arithmetic() -> None:
    plan = plan_for(2000 * MIB)
    assert not plan.asked.fits
    assert [c.fits for c in plan.choices] == sorted((c.fits for c in plan.choices), reverse=True)
    order = [(c.memory, c.batch_size) for c in plan.choices]
    assert order[:2] == [("smallest", 32), ("smallest", 40)]
    assert order[2:5] == [("lean", 26), ("balanced", 13), ("fast", 2)]
    assert set(order[5:]) == {("fast", 32), ("lean", 32)}


def test_nothing_fits_a_card_that_is_too_small() -> None:
    plan = plan_for(900 * MIB)
    assert not plan.asked.fits
    assert not any(choice.fits for choice in plan.choices)


def test_without_a_budget_everything_fits() -> None:
    plan = plan_for(None)
    assert plan.asked.fits
    assert {c.memory for c in plan.choices} == set(MODES) - {"balanced"}
    assert plan.seconds_per_step is None


def test_a_card_gives_budget_and_time() -> None:
    card = Card("test", memory_gib=4, tflops=100, bandwidth=1000)
    plan = make_plan(estimate, memory="balanced", batch_size=6, card=card)
    assert plan.budget_bytes == 4 * 2**30
    assert plan.seconds_per_step == pytest.approx(6 / 60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12GB", 12 * 10**9),
        ("11.5 GiB", 11.5 * 2**30),
        ("800mb", 800 * 10**6),
        ("4096", 4096),
        ("1e3 KiB", 1000 * 1024),
    ],
)
def test_sizes_in_words(text: str, expected: float) -> None:
    assert parse_bytes(text) == int(expected)


@pytest.mark.parametrize("text", ["", "GB", "12xb", "-3GB", "0", "nan", "inf GB", "12GB3"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="memory: must be a size"):
        parse_bytes(text)
