"""The sweep's result file against its page, and the promise: four light networks for less than 1.6 times one."""

from __future__ import annotations

import json
import re

import sweep

PAGE = sweep.RESULT.parents[2] / "docs" / "sweep.md"


def test_the_page_says_what_was_measured() -> None:
    stored = json.loads(sweep.RESULT.read_text(encoding="utf-8"))
    ratios = [f"{row['ratio']:.2f}" for row in stored["results"].values()]
    assert len(ratios) == 4
    told = PAGE.read_text(encoding="utf-8").split("measured", 1)[1].split("\n\n")[0]
    assert re.findall(r"\d\.\d\d", told) == ratios
    assert f"commit {stored['commit'][:7]}" in PAGE.read_text(encoding="utf-8")


def test_four_light_networks_cost_less_than_one_and_three_fifths() -> None:
    results = json.loads(sweep.RESULT.read_text(encoding="utf-8"))["results"]
    for precision, dtype in (("bf16", "torch.bfloat16"), ("fp32", "torch.float32")):
        row = results[f"light, side 192 every second, {precision}"]
        assert row["backbone_precision"] == dtype
        assert row["ratio"] < 1.6
