"""A run that is killed anywhere and resumed ends exactly as the run that was left alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "assets" / "small_run.py"
MIXED = {"optim.ema": 0.9, "data.mixup": 0.4, "data.cutmix": 0.6, "optim.epochs": 3, "train.save_every_steps": 2}
SCALED = {
    "train.precision": "fp16",
    "optim.accumulate": 2,
    "optim.clip_grad_norm": 0.5,
    "train.save_every_steps": 1,
    "data.broken_tolerance": 0.2,
}
TIMES = {"clips_per_second", "seconds", "epoch_seconds"}


def run_jobs(tmp_path: Path, jobs: list[tuple[Path, dict[str, Any]]]) -> tuple[list[int], str]:
    """Exit statuses of small runs of one process, one after the other, and what they said."""
    listing = tmp_path / "jobs.json"
    listing.write_text(json.dumps([[str(out), options] for out, options in jobs]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--jobs", str(listing)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [status for (status,) in json.loads(done.stdout.splitlines()[-1])], done.stderr


def outcome(out: Path) -> dict[str, Any]:
    """All that a run left behind, without clock readings: bytes of tensors, values of JSON."""
    (state,) = (out / "state").iterdir()
    names = ["side.safetensors", "last.safetensors", *(str(p.relative_to(out)) for p in state.glob("*.safetensors"))]
    # the name of a state counts how often was saved, which an interruption changes
    found: dict[str, Any] = {Path(name).name: (out / name).read_bytes() for name in names}
    found["state"] = _timeless(json.loads((state / "state.json").read_text()))
    found["metrics"] = _timeless(json.loads((out / "metrics.json").read_text()))
    found["broken"] = (out / "broken.json").read_text()
    for name in ("steps", "epochs"):
        with (out / "logs" / f"{name}.csv").open(newline="") as file:
            found[name] = [_timeless(row) for row in csv.DictReader(file)]
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def assert_same(out: Path, expected: dict[str, Any]) -> None:
    found = outcome(out)
    assert found.keys() == expected.keys()
    different = [name for name in expected if found[name] != expected[name]]
    assert different == [], out.name


@pytest.mark.parametrize(
    ("settings", "extra"),
    [(MIXED, {"videos": 12}), (SCALED, {"videos": 12, "norm": "layer", "broken": [4, 7]})],
    ids=["ema, mixup, batch norm", "fp16, accumulation, clipping, broken videos"],
)
def test_sigkill_at_any_step_and_inside_any_write(
    tmp_path: Path, settings: dict[str, Any], extra: dict[str, Any]
) -> None:
    whole = tmp_path / "whole"
    options = {"settings": settings, **extra}
    kills: list[dict[str, int]] = [{"kill_at": batch} for batch in (1, 2, 4, 7)]
    kills += [{"kill_in_write": number} for number in (8, 10, 18, 24)]
    jobs = [(whole, options)]
    for kill in kills:
        out = tmp_path / "_".join(f"{k}_{v}" for k, v in kill.items())
        jobs += [(out, {**options, **kill}), (out, {**options, "resume": True})]
    statuses, said = run_jobs(tmp_path, jobs)
    assert statuses[0] == 0, said
    assert statuses[1::2] == [-signal.SIGKILL] * len(kills)
    assert statuses[2::2] == [0] * len(kills), said
    expected = outcome(whole)
    assert len(expected["steps"]) == len({row["step"] for row in expected["steps"]})
    for out, _ in jobs[1::2]:
        assert_same(out, expected)


def test_killed_twice_at_different_places(tmp_path: Path) -> None:
    options: dict[str, Any] = {"settings": MIXED, "videos": 12}
    again = {**options, "resume": True}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    jobs = [(whole, options), (killed, {**options, "kill_at": 3}), (killed, {**again, "kill_at": 7}), (killed, again)]
    # a finished run that is resumed once more stays as it is
    statuses, said = run_jobs(tmp_path, [*jobs, (whole, again)])
    assert statuses == [0, -9, -9, 0, 0], said
    assert_same(killed, outcome(whole))


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 1), ("SIGTERM", 128 + signal.SIGTERM)])
def test_signals_save_and_exit(tmp_path: Path, name: str, status: int) -> None:
    # no saves between epochs: what is there after the signal was saved because of it
    options: dict[str, Any] = {"settings": {**MIXED, "train.save_every_steps": None}, "videos": 12}
    whole, out, trace = tmp_path / "whole", tmp_path / "stopped", tmp_path / "trace"
    stop = {**options, "signal": name, "signal_at": 4, "trace": str(trace)}
    statuses, said = run_jobs(tmp_path, [(whole, options), (out, stop)])
    assert statuses == [0, status], said
    raised = Path(f"{trace}.0").read_text()
    assert raised.startswith("KeyboardInterrupt: stopped after 4 steps" if name == "SIGINT" else "SystemExit: 143")
    if name == "SIGINT":
        assert "--resume" in raised
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    rows = (out / "logs" / "steps.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3", "4"]
    statuses, said = run_jobs(tmp_path, [(out, {**options, "resume": True})])
    assert statuses == [0], said
    assert_same(out, outcome(whole))


def test_full_disk_stops_with_the_last_state_intact(tmp_path: Path) -> None:
    options: dict[str, Any] = {"settings": {**MIXED, "train.save_every_steps": 1}, "videos": 12}
    whole, out, trace = tmp_path / "whole", tmp_path / "full", tmp_path / "trace"
    full = {**options, "full_at": 5, "trace": str(trace)}
    statuses, said = run_jobs(tmp_path, [(whole, options), (out, full)])
    assert statuses == [0, 1], said
    raised = Path(f"{trace}.0").read_text()
    assert raised.startswith("TrainingError: cannot write to ")
    assert "File too large" in raised
    assert "step-000000005" in raised
    assert "is intact" in raised
    assert [path.name[:14] for path in (out / "state").iterdir()] == ["step-000000005"]
    statuses, said = run_jobs(tmp_path, [(out, {**options, "resume": True})])
    assert statuses == [0], said
    assert_same(out, outcome(whole))
