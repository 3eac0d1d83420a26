"""The stored result is what the page shows, and keeps the promise of export."""

from __future__ import annotations

import json

import export as benchmark  # pyright: ignore[reportMissingImports]
from side4video.export.check import INT8_TOLERANCE, TOLERANCE


def test_the_page_shows_the_stored_result() -> None:
    result = json.loads(benchmark.RESULT.read_text())
    page = benchmark.PAGE.read_text()
    shown = page.split(benchmark.BEGIN)[1].split(benchmark.END)[0]
    assert shown.strip() == benchmark.table(result).strip()


def test_the_promise_holds_in_the_stored_result() -> None:
    models = json.loads(benchmark.RESULT.read_text())["models"]
    assert set(models) == {setup.name for setup in benchmark.SETUPS}
    for model in models.values():
        exact, small = model["variants"]["onnx-fp32"], model["variants"]["onnx-int8"]
        assert 0 < exact["logits_difference"] < TOLERANCE
        assert exact["scores_difference"] < TOLERANCE
        assert exact["scores_difference"] < small["scores_difference"] < INT8_TOLERANCE
        assert small["bytes"] < exact["bytes"] / 2
