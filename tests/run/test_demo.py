"""The demo from drawing to summary, at a size that takes seconds; its real numbers are measured by running it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from side4video.cli.main import main
from side4video.demo import run as demo_run
from side4video.demo.run import DemoSize, demo_classes

KEYS = {"top1", "probe_top1", "direction", "shuffled_top1", "shuffled_direction", "seconds"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "DEFAULT_SIZE", DemoSize(train_per_class=2, val_per_class=1, epochs=1))


def test_json_has_its_keys_and_nothing_else_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--json", "--seed", "3", "--out", str(out)]) == 0
    value = json.loads(capfd.readouterr().out)
    assert set(value) == KEYS
    assert all(0 <= value[key] <= 1 for key in KEYS - {"seconds"})
    assert value["seconds"] > 0
    clips = list((out / "clips").rglob("*.mp4"))
    assert len(clips) == 3 * len(demo_classes())
    assert (out / "run" / "side.safetensors").is_file()

    # what it leaves behind is an ordinary run
    assert main(["predict", str(out / "run"), str(clips[0]), "--json", "--views", "1x1"]) == 0
    (predicted,) = json.loads(capfd.readouterr().out)
    assert {entry["label"] for entry in predicted["predictions"]} <= set(demo_classes())

    assert main(["demo", "--out", str(out)]) == 2
    assert "must be a new or empty folder" in capfd.readouterr().err


def test_the_summary_names_every_number_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["demo"]) == 0
    printed = capfd.readouterr().out
    for words in ("top-1", "right direction", "frames shuffled", "linear probe", "chance", "predicted:", "next:"):
        assert words in printed, words
    assert list(tmp_path.glob("side4video-demo-*")) == []


def test_bad_options_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seed", "-1"]) == 2
    assert "--seed: must be at least 0; got -1" in capfd.readouterr().err
    assert main(["demo", "--task", "juggling"]) == 2
    assert "juggling" in capfd.readouterr().err
