"""Several processes on CPUs: the same weights as one process, exact resume, common stops, nobody waits forever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[1] / "assets" / "small_run.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = {"optim.epochs": 2, "data.batch_size": 4, "train.save_every_steps": 1}
TIMES = {"clips_per_second", "seconds", "epoch_seconds"}


def run_jobs(tmp_path: Path, jobs: list[tuple[Path, dict[str, Any]]]) -> tuple[list[list[int]], str]:
    """Exit statuses of the processes of small runs, one run after the other, and what they said."""
    listing = tmp_path / "jobs.json"
    listing.write_text(json.dumps([[str(out), options] for out, options in jobs]))
    command = [sys.executable, str(SCRIPT), "--jobs", str(listing)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def history(out: Path) -> list[dict[str, Any]]:
    rows = json.loads((out / "metrics.json").read_text())["history"]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def largest_difference(first: Path, second: Path) -> float:
    """Of weights and running variances of two runs, where the gradient is not zero in theory.

    A bias before a norm and a key's bias have none: there Adam turns rounding into steps of the full rate, and the
    running means follow. Nothing that the network computes depends on them.
    """
    ours, theirs = (load_file(out / "last.safetensors") for out in (first, second))
    (state,) = (first / "state").iterdir()
    moments = load_file(state / "optimizer.safetensors")
    largest = 0.0
    for name, value in ours.items():
        squares = moments.get(f"exp_avg_sq/{name}")
        moved = torch.ones_like(value, dtype=torch.bool) if squares is None else squares.sqrt() > 1e-7
        if not name.endswith("running_mean"):
            largest = max(largest, float((value - theirs[name])[moved].abs().max() if moved.any() else 0))
    return largest


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_two_processes_with_half_the_batch_train_like_one(tmp_path: Path, norm: str) -> None:
    # a rate that is constant makes an error grow, not hide; dropout would draw differently
    options: dict[str, Any] = {"norm": norm, "dropout": 0.0, "videos": 16}
    options["settings"] = {**SMALL, "optim.schedule": "constant", "optim.warmup_epochs": 0, "train.sync_bn": True}
    one, two, weights = tmp_path / "one", tmp_path / "two", tmp_path / "weights"
    both = {**options, "processes": 2, "split_batch": True, "weights": str(weights)}
    statuses, said = run_jobs(tmp_path, [(one, options), (two, both)])
    assert statuses == [[0], [0, 0]], said
    # float32 rounding of weights up to 1; measured 5e-7
    assert largest_difference(one, two) < 5e-6
    assert Path(f"{weights}.0").read_bytes() == Path(f"{weights}.1").read_bytes()
    for row, twin in zip(history(one), history(two), strict=True):
        assert row["step"] == twin["step"]
        assert twin["train_loss"] == pytest.approx(row["train_loss"], rel=1e-5)
        # running means lag behind biases that rounding moves (see above), and validation uses them
        assert twin["val_loss"] == pytest.approx(row["val_loss"], rel=1e-5 if norm == "layer" else 5e-3)
        assert twin["val_top1"] == row["val_top1"]


def test_batch_norm_of_each_process_is_not_that_of_the_whole(tmp_path: Path) -> None:
    options: dict[str, Any] = {"settings": SMALL, "dropout": 0.0, "videos": 16}
    one, two = tmp_path / "one", tmp_path / "two"
    statuses, said = run_jobs(tmp_path, [(one, options), (two, {**options, "processes": 2, "split_batch": True})])
    assert statuses == [[0], [0, 0]], said
    assert largest_difference(one, two) > 1e-3


def test_killed_and_resumed_with_two_processes_is_bit_identical(tmp_path: Path) -> None:
    options: dict[str, Any] = {"processes": 2, "videos": 24, "broken": [3]}
    options["settings"] = {
        **SMALL, "optim.ema": 0.8, "data.mixup": 0.5, "optim.accumulate": 2, "data.broken_tolerance": 0.1
    }  # fmt: skip
    whole, killed, stopped = tmp_path / "whole", tmp_path / "killed", tmp_path / "stopped"
    again = {**options, "resume": True}
    jobs = [(whole, options), (killed, {**options, "kill_at": 4}), (killed, again)]
    # only the second process is told to stop
    terminated = {**options, "signal": "SIGTERM", "signal_at": 1, "signal_rank": 1}
    jobs += [(stopped, terminated), (stopped, again)]
    statuses, said = run_jobs(tmp_path, jobs)
    assert statuses == [[0, 0], [-9, -9], [0, 0], [128 + signal.SIGTERM, 0], [0, 0]], said
    for out in (killed, stopped):
        for name in ("side.safetensors", "last.safetensors", "broken.json"):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), f"{out.name}/{name}"
        assert history(out) == history(whole)
        (state,), (expected) = (out / "state").iterdir(), next((whole / "state").iterdir())
        for name in ("weights", "optimizer", "ema"):
            file = f"{name}.safetensors"
            assert (state / file).read_bytes() == (expected / file).read_bytes()
        random = [json.loads((path / "state.json").read_text())["random"] for path in (state, expected)]
        assert random[0] == random[1]
        assert random[0][0] != random[0][1]


@pytest.mark.parametrize("sync_bn", [False, True])
def test_a_process_without_readable_clips_does_not_hold_up_the_others(tmp_path: Path, sync_bn: bool) -> None:
    # one clip a batch: whenever it is broken, its process has none; 6 of 16 are, in both processes
    broken = [0, 1, 2, 5, 9, 14]
    options: dict[str, Any] = {"processes": 2, "videos": 16, "broken": broken, "weights": str(tmp_path / "weights")}
    options["settings"] = {**SMALL, "data.batch_size": 1, "train.sync_bn": sync_bn, "data.broken_tolerance": 0.4}
    options["settings"]["optim.accumulate"] = 3
    statuses, said = run_jobs(tmp_path, [(tmp_path / "run", options)])
    assert statuses == [[0, 0]], said
    listed = json.loads((tmp_path / "run" / "broken.json").read_text())["train"]
    assert [entry["index"] for entry in listed] == broken
    assert listed[0] == {"index": 0, "path": "video0.mp4", "reason": "no video stream"}
    weights = [Path(f"{options['weights']}.{rank}").read_bytes() for rank in range(2)]
    assert weights[0] == weights[1]
    assert all(torch.isfinite(value).all() for value in load_file(tmp_path / "run" / "last.safetensors").values())


def test_too_many_broken_and_a_bad_loss_in_one_process_stop_both(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    base: dict[str, Any] = {"processes": 2, "videos": 16, "settings": SMALL}
    many = {**base, "broken": [1, 4, 6], "trace": f"{trace}_many"}
    nan = {**base, "nan_at": 1, "trace": f"{trace}_nan"}
    statuses, said = run_jobs(tmp_path, [(tmp_path / "many", many), (tmp_path / "nan", nan)])
    assert statuses == [[1, 0], [1, 0]], said
    said_many, said_nan = (Path(f"{trace}_{name}.0").read_text() for name in ("many", "nan"))
    assert "of 16 training videos are broken, more than the 5% that data.broken_tolerance allows" in said_many
    assert "no video stream" in said_many
    assert said_nan.startswith("TrainingError: the loss became NaN or infinite at step 2 (epoch 1)")
    assert "step-000000001" in said_nan
    (state,) = (tmp_path / "nan" / "state").iterdir()
    assert all(torch.isfinite(value).all() for value in load_file(state / "weights.safetensors").values())


def test_another_number_of_processes_resumes_with_the_same_clips_a_step(tmp_path: Path) -> None:
    # layer norm: batch norm would see other clips at a time, which is said
    # with 24 clips one weight's gradient is nearly zero when Adam first sees it: rounding becomes a hundredth of a step
    options: dict[str, Any] = {"norm": "layer", "dropout": 0.0, "videos": 28}
    options["settings"] = {**SMALL, "optim.schedule": "constant", "optim.warmup_epochs": 0}
    half = {**options, "processes": 2, "split_batch": True}
    halved = {**half, "settings": {**options["settings"], "data.batch_size": 2}}
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    small = {**half, "split_batch": False, "settings": halved["settings"]}
    jobs = [(whole, options), (moved, {**small, "kill_at": 8}), (moved, {**options, "resume": True})]
    # the same batch on one process would be half the clips a step
    other = tmp_path / "other"
    refused = {**options, "settings": halved["settings"], "resume": True, "trace": str(tmp_path / "trace")}
    jobs += [(other, {**small, "kill_at": 8}), (other, refused)]
    statuses, said = run_jobs(tmp_path, jobs)
    assert statuses == [[0], [-9, -9], [0], [-9, -9], [1]], said
    assert "resuming on 1 processes in place of 2: every step has the same clips" in said
    # measured 2e-7
    assert largest_difference(whole, moved) < 5e-6
    assert [row["step"] for row in history(moved)] == [7, 14]
    assert json.loads((moved / "run.json").read_text())["processes"] == 1
    assert (tmp_path / "trace.0").read_text() == (
        "ConfigError: cannot resume with other settings: the run has 4 clips a step, over 2 processes; got "
        "data.batch_size=2 on 1, which are 2. With 1 process: set data.batch_size=4"
    )


def test_tasks_of_slurm_find_each_other(tmp_path: Path) -> None:
    out, again = tmp_path / "slurm", tmp_path / "torchrun"
    options: dict[str, Any] = {"processes": 2, "videos": 16, "settings": {"optim.epochs": 1}}
    statuses, said = run_jobs(tmp_path, [(out, {**options, "slurm": True}), (again, options)])
    assert statuses == [[0, 0], [0, 0]], said
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert (out / "last.safetensors").read_bytes() == (again / "last.safetensors").read_bytes()


def test_one_and_two_processes_evaluate_to_the_last_bit_alike(tmp_path: Path) -> None:
    out = tmp_path / "run"
    jobs: list[tuple[Path, dict[str, Any]]] = [(out, {"settings": {"optim.epochs": 2}})]
    jobs += [(out, {"processes": count, "evaluate": str(tmp_path / f"found{count}")}) for count in (1, 2, 3)]
    statuses, said = run_jobs(tmp_path, jobs)
    assert statuses == [[0], [0], [0, 0], [0, 0, 0]], said
    expected = json.loads((tmp_path / "found1.0").read_text())
    assert (expected["num_videos"], expected["broken"]) == (14, 1)
    assert len(expected["scores"]) == 14 * 3 * 16
    for count in (2, 3):
        for rank in range(count):
            assert json.loads((tmp_path / f"found{count}.{rank}").read_text()) == expected


@pytest.mark.parametrize("launcher", ["devices=2", "torchrun"])
def test_launchers_start_two_processes(tmp_path: Path, launcher: str) -> None:
    out, weights = tmp_path / "run", tmp_path / "weights"
    settings: dict[str, Any] = {"optim.epochs": 1}
    command = [sys.executable]
    if launcher == "torchrun":
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    else:
        settings["train.devices"] = 2
    options = json.dumps({"settings": settings, "videos": 16, "weights": str(weights)})
    done = subprocess.run(
        [*command, str(SCRIPT), str(out), options],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert Path(f"{weights}.0").read_bytes() == Path(f"{weights}.1").read_bytes()
