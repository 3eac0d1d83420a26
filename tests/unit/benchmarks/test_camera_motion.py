"""The report of the camera benchmark: reading scores, judging, the table in the docs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def load_benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("camera_motion", ROOT / "benchmarks" / "camera_motion.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark()


def published() -> dict[str, Any]:
    return json.loads(benchmark.RESULT.read_text())


def test_the_table_in_the_docs_is_the_published_result() -> None:
    page = benchmark.PAGE.read_text()
    assert benchmark.with_table(page, published()) == page


def test_the_published_result_was_judged_as_learned() -> None:
    assert benchmark.judge(published()) == []


@pytest.mark.parametrize(
    ("key", "part", "value", "complaint"),
    [
        ("side_network", "top1", 0.3, "top-1 0.300 is less than"),
        ("side_network", "direction", 0.7, "direction 0.700 is below"),
        ("side_network_shuffled_frames", "direction", 0.9, "shuffled frames 0.900 is not chance"),
        ("side_network_shuffled_frames", "direction", 0.1, "shuffled frames 0.100 is not chance"),
    ],
)
def test_a_bad_result_is_named(key: str, part: str, value: float, complaint: str) -> None:
    result = published()
    result[key][part] = value
    assert any(complaint in line for line in benchmark.judge(result))


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="must hold"):
        benchmark.with_table("no marks", published())


def test_scores_are_read_by_class_name(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(
        "path,label,predicted,score_pan-right,score_tilt-up,score_pan-left\n"
        "a.mp4,pan-left,pan-right,0.5,0.2,0.3\n"
        "b.mp4,pan-right,pan-right,0.6,0.3,0.1\n"
    )
    scores = benchmark.read_scores(path)
    assert scores.class_names == ("pan-right", "tilt-up", "pan-left")
    assert scores.top1() == pytest.approx(0.5)
    assert scores.direction() == pytest.approx(0.5)
