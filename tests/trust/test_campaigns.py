"""A slice of the campaigns of kills and full disks, and the page that has their numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import trust_page  # noqa: E402


@pytest.mark.slow
@pytest.mark.xdist_group("campaigns")
def test_prepare_survives_kills_and_full_disks(tmp_path: Path) -> None:
    out = tmp_path / "campaigns.json"
    words = ["--kills", "2", "--full", "2", "--seed", "77", "--limit", "--only", "prepare", "--out", str(out)]
    command = [sys.executable, str(BENCHMARKS / "campaigns.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["summary"]["kills"]["prepare"] == {"rounds": 2, "killed": 2, "equal": 2}, found
    assert found["summary"]["full"]["prepare"] == {"rounds": 2, "full": 2, "clear": 2, "equal": 2}, found
    assert all("error: " in one["message"] for one in found["full"]["prepare"])


@pytest.mark.parametrize("part", trust_page.PARTS)
def test_the_page_says_what_the_result_files_hold(part: str) -> None:
    begin, end = trust_page.markers(part)
    page = trust_page.PAGE.read_text(encoding="utf-8")
    assert page.split(begin)[1].split(end)[0].strip() == trust_page.expected(part)


def test_ten_thousand_inputs_and_no_failure() -> None:
    report = json.loads((trust_page.RESULTS / "fuzz.json").read_text(encoding="utf-8"))
    assert {"command", "commit", "hardware", "limits"} <= report.keys()
    assert report["inputs"] >= 10_000
    assert report["failures"] == []
    assert all(report["outcomes"][name] == 0 for name in ("crash", "hang", "memory", "silent", "unnamed"))
    assert sum(report["outcomes"].values()) == report["inputs"]
    assert all(sum(counts.values()) >= 50 for counts in report["families"].values())


def test_every_command_was_killed_and_filled_and_lost_nothing() -> None:
    report = json.loads((trust_page.RESULTS / "campaigns.json").read_text(encoding="utf-8"))
    assert report["summary"]["kills"].keys() == {"train", "cache", "prepare", "index", "evaluate", "timeline"}
    for name, counts in report["summary"]["kills"].items():
        assert counts["rounds"] >= 5, name
        assert counts["killed"] > 0, name
        assert counts["equal"] == counts["rounds"], name
    for name, counts in report["summary"]["full"].items():
        assert counts["full"] > 0, name
        assert counts["clear"] == counts["full"], name
        assert counts["equal"] == counts["rounds"], name
