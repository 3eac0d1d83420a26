"""The floor's arithmetic, on a tiny plan, and the page against the result file."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from peers import report
from peers.catalog import Size

ROOT = Path(__file__).parents[3]
TINY = Size("tiny", "timm:test_vit", (3,), (32, "all"), (16, "every_second"))


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("floor_script", ROOT / "benchmarks" / "floor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture
def tiny_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text("Before.\n{}\nold\n{}\nAfter.\n".format(*report.markers(report.FLOOR)))
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "RESULT", tmp_path / "results" / "floor.json")
    plan = script.Plan((TINY,), ("fast", "smallest"), ("fp32", "bf16"), 2, 3, (160, 160), 64, 1)
    monkeypatch.setattr(script, "CPU", plan)
    monkeypatch.setattr(sys, "argv", ["floor.py"])
    return page


def test_the_floor_is_one_frozen_and_three_side_passes_at_the_measured_rate(
    tiny_plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "matrix_rate", lambda dtype, rows, device: 1e9 if dtype == torch.float32 else 4e9)
    script.main()
    stored = json.loads(script.RESULT.read_text())["cpu"]
    assert len(stored["rows"]) == 8  # two widths, two precisions, two modes
    for row in stored["rows"]:
        frozen_rate = 1e9 if row["precision"] == "fp32" else 4e9
        floor = row["frozen_flops"] / frozen_rate + 3 * row["side_flops"] / 1e9
        assert row["floor_seconds"] == pytest.approx(floor, abs=1e-5)
        assert row["times_floor"] == pytest.approx(row["seconds"] / floor, rel=0.01)
    wide, narrow = (next(r for r in stored["rows"] if r["width"] == width) for width in (32, 16))
    # every second tap of six blocks ends with the last block: the same frozen pass, less beside it
    assert wide["frozen_flops"] == narrow["frozen_flops"] > 0
    assert wide["side_flops"] > narrow["side_flops"] > 0
    assert "tiny, side 32" in capsys.readouterr().out
    assert "old" not in tiny_plan.read_text()
    assert {"command", "commit", "hardware"} <= stored.keys()


def test_the_matrix_rate_is_of_this_machine() -> None:
    rate = script.matrix_rate(torch.float32, 256, torch.device("cpu"))
    assert 1e8 < rate < 1e14


def test_asking_for_a_card_that_is_not_there_is_refused(tiny_plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["floor.py", "--gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device is there"):
        script.main()


def test_the_published_page_says_what_the_result_file_holds() -> None:
    result = ROOT / "benchmarks" / "results" / "floor.json"
    stored = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    begin, end = report.markers(report.FLOOR)
    assert page.split(begin)[1].split(end)[0].strip() == report.floor_table(stored).strip()
