"""The memory ladder: B/16's cells as they are simulated today."""

from __future__ import annotations

import pytest

import memory_ladder as ladder


@pytest.mark.parametrize("key", ["balanced", "int8", "lean", "smallest", "smallest, weights on the card"])
def test_b16_is_at_or_under_its_target(key: str) -> None:
    row = ladder.ROWS["b16"]
    found = ladder.simulate(row, ladder.COLUMNS[key]).peak_bytes / ladder.GIB
    assert 0.3 < found <= row.targets.get(key, 1.0) * ladder.ALLOWED
