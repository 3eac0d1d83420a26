"""Parts of the training clips: every class its share, nested, the same for the same seed."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from side4video.data.records import ClipRecord, Manifest
from side4video.data.subset import take_subset
from side4video.errors import InputError

SIZES = {0: 40, 1: 7, 2: 100, 4: 1}  # class 3 has no clip


def manifest() -> Manifest:
    clips = [(f"{label}/{number}.mp4", label) for label, size in SIZES.items() for number in range(size)]
    records = [ClipRecord(path, label) for path, label in sorted(clips, key=lambda clip: clip[0][::-1])]
    return Manifest(tuple(records), tuple("abcde"))


def names(part: Manifest) -> set[str]:
    return {record.path for record in part.records}


def counts(part: Manifest) -> Counter[int]:
    return Counter(record.label for record in part.records)


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.05, {0: 2, 1: 1, 2: 5, 4: 1}), (0.5, {0: 20, 1: 4, 2: 50, 4: 1}), (1.0, SIZES)]
)
def test_every_class_keeps_its_share(fraction: float, expected: dict[int, int]) -> None:
    whole = manifest()
    part = take_subset(whole, fraction=fraction, seed=3)
    assert counts(part) == expected
    assert part.class_names == whole.class_names
    kept = names(part)
    assert [r for r in whole.records if r.path in kept] == list(part.records), "the order stays"


def test_smaller_parts_lie_inside_larger_ones() -> None:
    whole = manifest()
    parts = [take_subset(whole, fraction=fraction, seed=3) for fraction in (0.05, 0.1, 0.2, 0.5, 1)]
    shots = [take_subset(whole, shots=number, seed=3) for number in (1, 2, 5, 30)]
    for chain in (parts, shots):
        for small, large in itertools.pairwise(chain):
            assert names(small) < names(large)
    assert names(shots[1]) <= names(parts[3])


def test_shots_are_as_many_as_a_class_has() -> None:
    assert counts(take_subset(manifest(), shots=5, seed=0)) == {0: 5, 1: 5, 2: 5, 4: 1}


def test_seed_decides_and_nothing_else() -> None:
    whole = manifest()
    first, second = (take_subset(whole, fraction=0.2, seed=seed) for seed in (1, 2))
    assert names(first) == names(take_subset(manifest(), fraction=0.2, seed=1))
    assert names(first) != names(second)
    moved = Manifest(tuple(ClipRecord(f"/disk/{r.path}", r.label) for r in whole.records), whole.class_names)
    assert names(take_subset(moved, fraction=0.2, seed=1)) == {f"/disk/{name}" for name in names(first)}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"fraction": 0.0}, "above 0 and at most 1; got 0.0"),
        ({"fraction": 1.5}, "got 1.5"),
        ({"shots": 0}, "at least 1, and go without a fraction; got 0 shots"),
        ({"shots": 3, "fraction": 0.5}, "got 3 shots and a fraction of 0.5"),
    ],
)
def test_refuses_what_makes_no_sense(wanted: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        take_subset(manifest(), **wanted)
