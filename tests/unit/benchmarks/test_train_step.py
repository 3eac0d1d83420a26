"""The training step's result file against its page, and what it claims."""

from __future__ import annotations

import json

import train_step
from peers.report import markers


def test_the_published_page_says_what_the_result_file_holds() -> None:
    stored = json.loads(train_step.RESULT.read_text(encoding="utf-8"))
    begin, end = markers(train_step.MARKER)
    page = train_step.PAGE.read_text(encoding="utf-8")
    assert page.split(begin)[1].split(end)[0].strip() == train_step.table(stored)


def test_every_mode_takes_part_and_smaller_modes_compute_more() -> None:
    stored = json.loads(train_step.RESULT.read_text(encoding="utf-8"))
    assert {"command", "commit", "hardware", "matrix_gflops_a_second"} <= stored.keys()
    assert stored["results"].keys() == train_step.MODELS.keys()
    for rows in stored["results"].values():
        gflops = [rows[f"ours, memory={mode}, side fp32"]["gflops"] for mode in train_step.MODES]
        assert gflops == sorted(gflops)
        assert gflops[0] < gflops[1] < gflops[-1]
        assert gflops[0] < rows[train_step.RELEASED]["gflops"]
