"""The order of choices, the largest batch, and sizes in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from side4video.errors import ConfigError, InputError
from side4video.memory.cards import Card
from side4video.memory.estimate import StepEstimate
from side4video.memory.plan import MODES, RESERVED_BYTES, Change, choose, make_plan, parse_bytes
from side4video.memory.track import Operation
from side4video.side.network import MemoryMode

MIB = 2**20
# bytes a clip, and arithmetic a clip
PER_CLIP = {"fast": (300 * MIB, 100), "balanced": (60 * MIB, 110), "lean": (30 * MIB, 110), "smallest": (20 * MIB, 120)}


def estimate(memory: MemoryMode, batch_size: int, changes: Mapping[str, Any] | None = None, /) -> StepEstimate:
    num_bytes, flops = PER_CLIP[memory]
    # frozen weights that are streamed, and a side network of half the width
    fixed = 100 if changes and "stream" in changes else 500
    num_bytes //= 2 if changes and "width" in changes else 1
    return StepEstimate(
        peak_bytes=fixed * MIB + num_bytes * batch_size,
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


CHANGES = (Change({"width": 8}, "another model"), Change({"stream": True}, "same"), Change({"bits": 8}, "approximate"))


def changed_plan(budget: int):
    return make_plan(estimate, memory="balanced", batch_size=32, budget_bytes=budget, changes=CHANGES)


def test_changes_of_other_settings_come_by_what_they_do_to_the_result() -> None:
    # 32 clips want 500 + 20 * 32 + 700 MiB in the smallest mode, at half the width 1520
    plan = changed_plan(1530 * MIB)
    order = [(c.settings, c.kind, c.fits) for c in plan.choices]
    assert order[0] == ({"memory": "smallest", "data.batch_size": 32, "stream": True}, "same", True)
    kinds = [kind for _, kind, fits in order if fits]
    assert kinds == sorted(kinds, key=["same", "approximate", "another model"].index)
    # of another model, the mode that fits is named and not the one that was asked for
    assert ({"memory": "smallest", "data.batch_size": 32, "width": 8}, "another model", True) in order
    assert order[-1][2] is False
    assert next(c for c in plan.choices if c.kind == "another model").fits
    assert plan.largest_batch is not None
    assert plan.largest_batch.settings == {"memory": "smallest", "data.batch_size": 32, "stream": True}


def test_what_fits_is_not_asked_to_change() -> None:
    assert {c.kind for c in changed_plan(10**11).choices} == {"same"}
    assert not any(c.changes for c in changed_plan(10**11).choices)


def test_the_cost_of_a_mode_against_fast() -> None:
    plan = plan_for(None)
    assert plan.extra_arithmetic("fast") == 0
    assert plan.extra_arithmetic("smallest") == pytest.approx(0.2)
    assert plan.extra_seconds("smallest") is None


@pytest.mark.parametrize(
    ("budget_mib", "memory", "batch_size", "tried"),
    [(11_000, "fast", 32, 0), (3_200, "balanced", 32, 1), (2_200, "lean", 32, 2), (1_850, "smallest", 32, 3),
     (1_400, "smallest", 10, 4), (1_220, "smallest", 1, 4)],
)  # fmt: skip
def test_the_fastest_mode_that_fits_is_chosen_then_a_smaller_batch(
    budget_mib: int, memory: MemoryMode, batch_size: int, tried: int
) -> None:
    choice, before = choose(estimate, batch_size=32, budget_bytes=budget_mib * MIB)
    assert (choice.memory, choice.batch_size, choice.fits) == (memory, batch_size, True)
    assert [other.memory for other in before] == list(MODES[:tried])
    assert not any(other.fits for other in before)


def test_when_nothing_fits_the_smallest_need_is_named() -> None:
    with pytest.raises(ConfigError, match=r"1.00 GiB are too few: the smallest need is 1.19 GiB, for one clip with"):
        choose(estimate, batch_size=32, budget_bytes=2**30)
    # a run that goes on keeps its batch
    with pytest.raises(ConfigError, match="for a batch of 32 with memory=smallest"):
        choose(estimate, batch_size=32, budget_bytes=1_400 * MIB, may_shrink=False)


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
