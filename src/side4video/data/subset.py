"""A part of the training clips, the same share of every class: data efficiency and few-shot.

The clips of a class are put in a random order once, by seed and class, and a part is the beginning of it. So a smaller
part lies inside every larger one, K shots inside K+1, and the choice depends on the records and the seed only.

Source: Side4Video, arXiv:2311.15769, data efficiency (5, 10, 20 and 50 % of Something-Something V2).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from side4video.data.records import Manifest
from side4video.errors import InputError


def take_subset(manifest: Manifest, *, fraction: float = 1.0, shots: int | None = None, seed: int = 0) -> Manifest:
    """`fraction` of each class's clips, at least one, or `shots` of each; in the order that they had.

    A class with fewer clips than `shots` keeps them all.

    Raises: InputError for a fraction outside 0 to 1, fewer than one shot, or both at once.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"the fraction must be above 0 and at most 1; got {fraction}")
    if shots is not None and (shots < 1 or fraction < 1):
        what = f"{shots} shots" if shots < 1 else f"{shots} shots and a fraction of {fraction}"
        raise InputError(f"shots must be at least 1, and go without a fraction; got {what}")
    if fraction == 1 and shots is None:
        return manifest
    by_class: dict[int, list[int]] = {}
    for index, record in enumerate(manifest.records):
        by_class.setdefault(record.label, []).append(index)
    kept: set[int] = set()
    for label, members in by_class.items():
        count = max(1, round(fraction * len(members))) if shots is None else shots
        order = np.random.default_rng([seed, label, len(members)]).permutation(len(members))
        kept.update(members[position] for position in order[:count].tolist())
    return replace(manifest, records=tuple(r for index, r in enumerate(manifest.records) if index in kept))
