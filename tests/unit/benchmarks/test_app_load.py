"""The page says what the stored result says: fifty visitors at once, and no answer that was not expected."""

from __future__ import annotations

import json

import pytest

import app_load as benchmark
import app_material as material


def test_the_page_has_the_stored_table() -> None:
    stored = json.loads(benchmark.RESULT.read_text(encoding="utf-8"))
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert page.split(benchmark.BEGIN)[1].split(benchmark.END)[0].strip() == benchmark.page_table(stored)


def test_the_stored_run_had_no_unexpected_answer() -> None:
    stored = json.loads(benchmark.RESULT.read_text(encoding="utf-8"))
    assert stored["users"] == 50
    assert stored["errors"] == {}
    assert set(stored["rows"]) == set(benchmark.ORDER)
    assert stored["first_answer"]["count"] >= 50
    assert all(row["count"] >= 50 and row["p50_ms"] <= row["p95_ms"] for row in stored["rows"].values())


def test_percentiles_and_moments() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert benchmark.percentile(values, 0.5) == 51
    assert benchmark.percentile(values, 0.95) == 96
    assert benchmark.percentile([3.0], 0.95) == 3
    assert material.moment_of("blue") == ("harbour/evening.avi", 3.0, 6.0)
    with pytest.raises(ValueError, match="no video shows green once"):
        material.moment_of("green")
