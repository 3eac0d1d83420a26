"""`side4video train`: from words to a run folder, stopped and gone on with, and what bad input gets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from run.small_runs import draw_clip, settings
from side4video.cli.main import main

PROGRAM = str(Path(sys.executable).with_name("side4video"))


def words(clips: Path, out: Path, *more: str, workers: int = 0) -> list[str]:
    data = [str(clips / "train"), "--val", str(clips / "val")]
    return ["train", *data, "--out", str(out), *settings(*more, workers=workers)]


def test_a_run_in_json(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([*words(clips, out, "optim.warmup_epochs=0"), "--epochs", "1", "--json"]) == 0
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    assert value["out"] == str(out)
    assert (value["epochs"], value["steps"], value["broken"]) == (1, 3, 0)
    assert 0 <= value["top1"] <= 1
    assert "frozen" in captured.err
    assert "epoch 1/1" in captured.err
    assert (out / "side.safetensors").is_file()


def test_a_recipe_and_overrides_are_what_is_stored(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{train: {clips / 'train'}, flip: off, mixup: 0.5}}\noptim: {{epochs: 9, lr: 1e-4}}\n")
    out = tmp_path / "run"
    assert main(["train", str(recipe), "--out", str(out), *settings("data.mixup=0.25"), "--epochs", "1"]) == 0
    stored = (out / "config.yaml").read_text()
    for line in ("mixup: 0.25", "lr: 0.0001", "epochs: 1", "flip: 'off'", "name: tiny-clip"):
        assert line in stored
    assert f"next: side4video evaluate {out}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("has_units", "given", "told"),
    [
        (True, ("train.precision=auto",), ["train.precision=bf16", "memory=fast"]),
        (False, ("train.precision=auto",), ["memory=fast"]),
        (False, ("train.precision=auto", "memory=lean"), []),
        (False, ("train.precision=auto", "--memory", "0.7GiB"), []),
        (True, ("train.precision=auto", "memory=fast"), ["train.precision=bf16"]),
        (True, ("train.precision=fp32", "memory=fast"), []),
    ],
)
def test_what_would_be_faster_on_a_cpu_is_said(
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    has_units: bool,
    given: tuple[str, ...],
    told: list[str],
) -> None:
    monkeypatch.setattr("side4video.backbones.precision.cpu_has_bf16", lambda: has_units)
    assert main([*words(clips, tmp_path / "run", *given), "--epochs", "1"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("faster on a CPU: ")]
    assert [found for line in lines for found in re.findall(r"(?:train\.precision=bf16|memory=fast)", line)] == told


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for children there")
def test_ctrl_c_saves_and_resume_ends_at_the_same_weights(clips: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*words(clips, whole), "--epochs", "3"]) == 0
    # slowed down by a log line a step, so that the signal meets it in the middle
    process = subprocess.Popen(
        [PROGRAM, *words(clips, stopped, "data.workers=1"), "--epochs", "3", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    steps = stopped / "logs" / "steps.csv"
    deadline = time.monotonic() + 120
    while not (steps.is_file() and len(steps.read_text().splitlines()) >= 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "--resume" in err
    # the run folder alone is enough to go on
    done = subprocess.run(
        [PROGRAM, "train", "--out", str(stopped), "--resume", "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 3
    expected = safetensors.torch.load_file(whole / "last.safetensors")
    got = safetensors.torch.load_file(stopped / "last.safetensors")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_resume_refuses_to_become_another_run(run_copy: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_copy / "config.yaml").read_text()
    assert main(["train", "--out", str(run_copy), "--resume", "optim.lr=0.5"]) == 2
    assert "optim.lr" in capsys.readouterr().err
    assert main([*words(clips, run_copy), "--epochs", "2", "--resume"]) == 0, "the same command again"
    assert (run_copy / "config.yaml").read_text() == before
    assert main([*words(clips, run_copy), "--epochs", "2"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_broken_videos_are_named_and_too_many_stop_the_run(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(clips, tmp_path / "data"))
    (data / "train" / "grow" / "0.mp4").write_text("no video")
    assert main([*words(data, tmp_path / "few"), "--epochs", "1", "data.broken_tolerance=0.1"]) == 0
    assert "grow/0.mp4: " in capsys.readouterr().err
    assert main([*words(data, tmp_path / "many"), "--epochs", "1"]) == 2
    err = capsys.readouterr().err
    assert "1 of 15 training videos are broken, more than the 5%" in err
    assert "grow/0.mp4" in err


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ("empty folder", [], "no class folders"),
        ("one class", [], "one class only"),
        ("class in validation", [], "slide-up"),
        ("nan", ["optim.lr=1e30", "optim.warmup_epochs=0"], "NaN or infinite at step"),
        ("batch", ["data.batch_size=99"], "do not fill one batch of 99"),
        ("backbone", ["backbone.name=timm:vit_smal_patch16_224"], "vit_smal_patch16_224"),
        ("taps", ["side.taps=[0, 77]"], "77"),
        ("image size", ["backbone.image_size=65"], "65"),
        ("swap", ["data.flip=swap"], "data.flip_pairs"),
        ("cuda", ["train.accelerator=cuda"], "cuda is not available"),
    ],
)
def test_bad_input_is_named_and_ends_with_2(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, more: list[str], message: str
) -> None:
    if change == "cuda" and torch.cuda.is_available():
        more, message = ["train.accelerator=mps"], "mps is not available"
    data = Path(shutil.copytree(clips, tmp_path / "data"))
    if change == "empty folder":
        shutil.rmtree(data / "train")
        (data / "train").mkdir()
    elif change == "one class":
        for name in ("slide-left", "slide-right"):
            shutil.rmtree(data / "train" / name)
    elif change == "class in validation":
        draw_clip(data / "val" / "slide-up" / "0.mp4", "grow", seed=5)
    assert main([*words(data, tmp_path / "run", *more), "--epochs", "2"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err), err
    assert "Traceback" not in err


def test_a_place_that_cannot_hold_a_run_is_said(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.txt").write_text("no folder")
    assert main([*words(clips, tmp_path / "file.txt" / "run"), "--epochs", "1"]) == 2
    err = capsys.readouterr().err
    assert "file.txt" in err
    assert "Traceback" not in err
