"""The memory ladder: B/16's cells as they are simulated today, and the page against the result file."""

from __future__ import annotations

import json

import pytest

import memory_ladder as ladder


@pytest.mark.parametrize("key", ["balanced", "int8", "lean", "smallest", "smallest, weights on the card"])
def test_b16_is_at_or_under_its_target(key: str) -> None:
    row = ladder.ROWS["b16"]
    found = ladder.simulate(row, ladder.COLUMNS[key]).peak_bytes / ladder.GIB
    assert 0.3 < found <= row.targets.get(key, 1.0) * ladder.ALLOWED


def test_the_published_page_says_what_the_result_file_holds() -> None:
    stored = json.loads(ladder.RESULT.read_text(encoding="utf-8"))
    page = ladder.PAGE.read_text(encoding="utf-8")
    assert page.split(ladder.BEGIN)[1].split(ladder.END)[0].strip() == ladder.table(stored)


def test_the_result_file_has_every_cell_and_none_far_above_its_target() -> None:
    stored = json.loads(ladder.RESULT.read_text(encoding="utf-8"))
    assert {"command", "commit", "hardware"} <= stored.keys()
    assert stored["rows"].keys() == ladder.ROWS.keys()
    for name, row in ladder.ROWS.items():
        cells = stored["rows"][name]["cells"]
        assert cells.keys() == {*row.targets, *ladder.ALSO.get(name, ())}
        for key, target in row.targets.items():
            assert cells[key]["target_gib"] == target
            assert 0.3 < cells[key]["gib"] <= target * ladder.ALLOWED, f"{name}/{key}"
