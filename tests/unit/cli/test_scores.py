"""Scores of every clip as CSV and parquet: the same numbers, read back."""

from __future__ import annotations

import builtins
import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from side4video.cli.scores import ScoreRow, check_scores_path, write_scores
from side4video.errors import ConfigError, MissingExtraError

NAMES = ("left, or so", "right")
ROWS = [
    ScoreRow("a/b,c.mp4", None, None, NAMES[0], NAMES[1], (0.1 + 0.2, 0.7)),
    ScoreRow('a/"d".mp4', None, None, NAMES[1], NAMES[1], (0.25, 0.75)),
    ScoreRow("é.mp4", None, None, NAMES[0], NAMES[0], (1.0, 0.0)),
]
COLUMNS = ["path", "label", "predicted", "score_left, or so", "score_right"]


def test_csv_reads_back_to_the_same_numbers(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_scores(path, ROWS, NAMES)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [(r["path"], r["label"], r["predicted"]) for r in rows] == [(r.path, r.label, r.predicted) for r in ROWS]
    assert [float(r["score_left, or so"]) for r in rows] == [r.scores[0] for r in ROWS]


def test_parquet_reads_back_to_the_same_numbers(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, ROWS, NAMES)
    table = pyarrow.parquet.read_table(path).to_pydict()
    assert list(table) == COLUMNS
    assert table["path"] == [r.path for r in ROWS]
    assert table["score_right"] == [r.scores[1] for r in ROWS]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parts_of_videos_have_their_times(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    write_scores(path, [ScoreRow("a.mp4", 1.5, 2.5, NAMES[0], NAMES[0], (0.6, 0.4)), ROWS[1]], NAMES)
    if suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            assert [(r["start"], r["end"]) for r in csv.DictReader(file)] == [("1.5", "2.5"), ("", "")]
    else:
        assert pyarrow.parquet.read_table(path).to_pydict()["start"] == [1.5, None]


def test_what_cannot_be_written_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    check_scores_path(Path("a.csv"))
    check_scores_path(Path("a.parquet"))
    with pytest.raises(ConfigError, match=r"--scores: must end in .csv or .parquet; got 'a.json'"):
        check_scores_path(Path("a.json"))
    real_import = builtins.__import__

    def without_pyarrow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(MissingExtraError, match=r"pip install 'side4video\[parquet\]'"):
        check_scores_path(Path("a.parquet"))
