"""Curves: rows as they come, no duplicates and no holes after a resume, and the extra named when it is missing."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from side4video.errors import MissingExtraError
from side4video.training.logging import open_loggers

STEP = {"epoch": 1, "loss": 0.5, "top1": 0.25, "lr": 1e-3, "clips_per_second": 7.0}
EPOCH = {"epoch": 1, "val_loss": 0.5, "val_top1": 0.25, "val_top5": 1.0, "val_mean_class": 0.2}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_step_is_on_the_disk_at_once(tmp_path: Path) -> None:
    (curves,) = open_loggers(["csv", "csv"], tmp_path, step=0, epochs=0)
    for step in range(1, 4):
        curves.log({**STEP, "loss": 1 / step}, step)
        assert [row["step"] for row in rows(tmp_path / "logs" / "steps.csv")] == [str(k) for k in range(1, step + 1)]
    curves.log(EPOCH, 3)
    assert float(rows(tmp_path / "logs" / "steps.csv")[2]["loss"]) == 1 / 3
    assert rows(tmp_path / "logs" / "epochs.csv")[0]["val_top5"] == "1.0"
    curves.close()
    curves.close()


def test_a_resumed_run_drops_what_lies_beyond_and_torn_rows(tmp_path: Path) -> None:
    (curves,) = open_loggers(["csv"], tmp_path, step=0, epochs=0)
    for step in range(1, 7):
        curves.log(STEP, step)
    curves.log(EPOCH, 3)
    curves.log({**EPOCH, "epoch": 2}, 6)
    curves.close()
    path = tmp_path / "logs" / "steps.csv"
    path.write_text(path.read_text() + "4,2,0.1")
    (curves,) = open_loggers(["csv"], tmp_path, step=4, epochs=1)
    curves.log(STEP, 5)
    curves.close()
    assert [row["step"] for row in rows(path)] == ["1", "2", "3", "4", "5"]
    assert [row["epoch"] for row in rows(tmp_path / "logs" / "epochs.csv")] == ["1"]


def test_tensorboard_purges_what_a_resumed_run_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the counters that end the files' names sort as text: 9 and 10 would come in the wrong order within one second
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(9))
    for first, step in ((1, 0), (4, 3)):
        (curves,) = open_loggers(["tensorboard"], tmp_path, step=step, epochs=0)
        for k in range(first, first + 5):
            curves.log({"loss": float(10 * first + k)}, k)
        curves.flush()
        curves.close()
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (1, 11), (2, 12), (3, 13), (4, 44), (5, 45), (6, 46), (7, 47), (8, 48)
    ]  # fmt: skip


def test_missing_wandb_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"wandb is not installed.*side4video\[wandb\]"):
        open_loggers(["wandb"], tmp_path, step=0, epochs=0)
