"""The README says what the stored demo runs say, and they keep what is promised of the demo."""

from __future__ import annotations

import json

import demo as benchmark


def test_the_readme_has_the_stored_table() -> None:
    page = benchmark.README.read_text(encoding="utf-8")
    assert page.split(benchmark.BEGIN)[1].split(benchmark.END)[0].strip() == benchmark.page_table()


def test_the_stored_runs_of_recognition_show_that_motion_was_learned() -> None:
    report = json.loads((benchmark.RESULTS / "demo_recognition.json").read_text(encoding="utf-8"))
    assert len(report["runs"]) >= 3
    for run in report["runs"]:
        assert run["top1"] >= 0.9
        assert run["top1"] - run["probe_top1"] >= 0.4
        assert 0.4 <= run["shuffled_direction"] <= 0.6
        assert run["seconds"] < 180


def test_the_stored_runs_of_retrieval_find_twice_as_much_as_the_frozen_model() -> None:
    report = json.loads((benchmark.RESULTS / "demo_retrieval.json").read_text(encoding="utf-8"))
    assert len(report["runs"]) >= 3
    for run in report["runs"]:
        assert run["t2v_r1"] >= 2 * run["frozen_t2v_r1"]
