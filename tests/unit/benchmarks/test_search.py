"""The page says what the stored result says, and the result keeps what is promised of search."""

from __future__ import annotations

import json

import search as benchmark


def test_the_page_has_the_stored_table() -> None:
    stored = json.loads(benchmark.RESULT.read_text(encoding="utf-8"))
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert page.split(benchmark.BEGIN)[1].split(benchmark.END)[0].strip() == benchmark.page_table(stored)


def test_the_stored_default_is_fast_and_finds_what_is_there() -> None:
    stored = json.loads(benchmark.RESULT.read_text(encoding="utf-8"))
    assert stored["windows"] == 100_000
    default = stored["rows"]["the default"]
    assert default["p50_ms"] < 50
    assert default["recall_at_10"] >= 0.95
