"""A plan takes seconds and little memory: one measured here, and the page against the result file."""

from __future__ import annotations

import json

import plan_cost
from peers.report import markers


def test_a_plan_fits_into_a_small_machine_and_takes_seconds() -> None:
    found = plan_cost.cost("ssv2-b16-light")
    # torch and the model libraries alone are half of that
    assert 0.2 < found["peak_gib"] < 2
    assert found["cpu_seconds"] < 60


def test_the_published_page_says_what_the_result_file_holds() -> None:
    stored = json.loads(plan_cost.RESULT.read_text(encoding="utf-8"))
    begin, end = markers(plan_cost.MARKER)
    page = plan_cost.PAGE.read_text(encoding="utf-8")
    assert page.split(begin)[1].split(end)[0].strip() == plan_cost.table(stored)
    assert "ssv2-e14" in stored["rows"]
    assert all(row["peak_gib"] < 2 for row in stored["rows"].values())
