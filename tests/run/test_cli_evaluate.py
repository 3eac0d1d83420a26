"""`side4video evaluate` on a trained run."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from run.small_runs import CLASSES, VAL_CLIPS, draw_clip
from side4video.cli.main import main

NUM_VAL = VAL_CLIPS * len(CLASSES)


def evaluate(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *words, "--json", "data.workers=0"]) == code
    return json.loads(capsys.readouterr().out)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_numbers_agree_with_the_scores_and_with_training(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = evaluate(capsys, str(run_copy))
    assert value["num_videos"] == NUM_VAL
    assert value["broken"] == 0
    rows = rows_of(run_copy / "evaluation" / "scores.csv")
    assert len(rows) == NUM_VAL
    right = [row["label"] == row["predicted"] for row in rows]
    assert value["top1"] == pytest.approx(sum(right) / NUM_VAL)
    for row in rows:
        scores = {name: float(row[f"score_{name}"]) for name in CLASSES}
        assert sum(scores.values()) == pytest.approx(1.0)
        assert max(scores, key=scores.__getitem__) == row["predicted"]
        assert Path(row["path"]).parent.name == row["label"]
    assert value["top5"] == 1.0, "three classes"
    assert value["mean_class"] == pytest.approx(sum(value["per_class"].values()) / len(CLASSES))
    best = json.loads((run_copy / "metrics.json").read_text())["best"]
    assert value["top1"] == pytest.approx(best["val_top1"] if "val_top1" in best else best["top1"])
    page = (run_copy / "evaluation" / "report.html").read_text()
    assert page.count('src="data:image/jpeg') == 4 * NUM_VAL, "each clip is among the hardest"
    assert "<polyline" in page


def test_more_views_and_frames_than_in_training(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = evaluate(capsys, str(run_copy), "--scores", str(run_copy / "one.csv"))
    many = evaluate(
        capsys, str(run_copy), "--views", "2x3", "data.num_frames=9", "--scores", str(run_copy / "many.csv")
    )
    assert (one["views"], many["views"]) == ("1x1", "2x3")
    assert many["num_videos"] == NUM_VAL
    first, second = rows_of(run_copy / "one.csv"), rows_of(run_copy / "many.csv")
    assert [row["path"] for row in first] == [row["path"] for row in second]
    assert [row["score_grow"] for row in first] != [row["score_grow"] for row in second]


def test_shuffled_frames_are_a_control_beside_the_result(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(capsys, str(run_copy))
    plain = (run_copy / "evaluation" / "scores.csv").read_text()
    value = evaluate(capsys, str(run_copy), "--shuffle-frames")
    assert value["shuffled_frames"] is True
    assert any("random order" in text for text in value["warnings"])
    assert (run_copy / "evaluation" / "scores.csv").read_text() == plain, "the result is still there"
    shuffled = (run_copy / "evaluation" / "scores-shuffled.csv").read_text()
    assert shuffled != plain
    assert evaluate(capsys, str(run_copy), "--shuffle-frames")["loss"] == value["loss"], "the same order every time"


def test_broken_videos_are_listed_and_counted_and_not_scored(
    run_copy: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(clips / "val", tmp_path / "data"))
    (data / "grow" / "broken.mp4").write_bytes(b"")
    (data / "grow" / "text.mp4").write_text("hello")
    value = evaluate(capsys, str(run_copy), "--data", str(data), code=1)
    assert value["num_videos"] == NUM_VAL
    assert value["broken"] == 2
    assert {Path(entry["path"]).name for entry in value["broken_videos"]} == {"broken.mp4", "text.mp4"}
    assert value["top1"] == evaluate(capsys, str(run_copy))["top1"]
    assert main(["evaluate", str(run_copy), "--data", str(data), "data.workers=0"]) == 1
    out, err = capsys.readouterr()
    assert "broken.mp4: empty file" in err
    assert "broken      2" in out
    assert "text.mp4" in (run_copy / "evaluation" / "report.html").read_text()


def test_other_data_other_files_and_parquet(run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_clip(tmp_path / "clip.mp4", "grow", seed=7)
    table = tmp_path / "list.csv"
    table.write_text("path,label,start,end\nclip.mp4,grow,0,0.9\nclip.mp4,slide-left,0.3,1.0\n")
    scores, report = tmp_path / "new" / "s.parquet", tmp_path / "r.html"
    value = evaluate(capsys, str(run_copy), "--data", str(table), "--scores", str(scores), "--report", str(report))
    assert value["num_videos"] == 2
    assert (value["scores"], value["report"]) == (str(scores), str(report))
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(scores).to_pydict()["start"] == [0.0, 0.3]
    assert "Not tested" in report.read_text()
    assert not (run_copy / "evaluation").exists()


def test_the_training_split_is_said_to_be_one(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = evaluate(capsys, str(run_copy), "--split", "train")
    assert value["num_videos"] == 15
    assert any("trained on" in text for text in value["warnings"])


def test_a_plain_flip_of_left_and_right_is_warned_of(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_copy / "config.yaml"
    assert evaluate(capsys, str(run_copy))["warnings"] == []
    config.write_text(config.read_text().replace("flip: 'off'", "flip: 'on'"))
    (warning,) = evaluate(capsys, str(run_copy))["warnings"]
    assert "slide-left / slide-right" in warning
    assert "Mind this" in (run_copy / "evaluation" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "gone"], "--data: no such file or folder: 'gone'"),
        (["--split", "test"], "--split: must be val or train; got 'test'"),
        (["--scores", "a.txt"], "--scores: must end in .csv or .parquet"),
        (["--report", "a.pdf"], "--report: must end in .html"),
        (["side.width=48"], "setting 'side.width' cannot be changed here"),
        (["train.accelerator=cuda", "train.devices=99"], "cuda is not available|train.devices=99"),
    ],
)
def test_bad_words(run_copy: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["evaluate", str(run_copy), *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_class_that_the_run_does_not_know(run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_clip(tmp_path / "data" / "slide-up" / "0.mp4", "grow", seed=1)
    assert main(["evaluate", str(run_copy), "--data", str(tmp_path / "data")]) == 2
    assert "slide-up" in capsys.readouterr().err


def test_damaged_runs_are_named(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run_copy / "side.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert main(["evaluate", str(run_copy)]) == 2
    assert "side.safetensors" in capsys.readouterr().err
    weights.write_bytes(content)
    identity = json.loads((run_copy / "backbone.json").read_text())
    (run_copy / "backbone.json").write_text(json.dumps(identity | {"hash": "0" * 64}))
    assert main(["evaluate", str(run_copy)]) == 2
    assert "backbone" in capsys.readouterr().err
