"""Frozen blocks that are spread over processes (FSDP2): the same runs to the last bit, a part of the weights each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from run.small_runs import settings
from run.test_distributed import ENVIRONMENT, SMALL, history, run_jobs
from side4video.cli.main import main


def test_spread_blocks_give_the_same_run_whatever_happens(tmp_path: Path) -> None:
    # one clip a batch: whenever it is broken, its process has none, and must still give its part to the other one
    options: dict[str, Any] = {"processes": 2, "videos": 16, "broken": [0, 1, 2, 5, 9, 14]}
    options["settings"] = {**SMALL, "data.batch_size": 1, "data.broken_tolerance": 0.4, "optim.accumulate": 3}
    synced = {**options, "settings": {**options["settings"], "train.sync_bn": True}}
    spread = {**options, "shard": True}
    runs = {name: tmp_path / name for name in ("plain", "spread", "synced", "synced_spread", "moved")}
    jobs = [(runs["plain"], options), (runs["spread"], spread)]
    jobs += [(runs["synced"], synced), (runs["synced_spread"], {**synced, "shard": True})]
    # killed while it was spread, resumed as it is not, and the other way round
    jobs += [(runs["moved"], {**spread, "kill_at": 3}), (runs["moved"], {**options, "resume": True, "kill_at": 9})]
    jobs += [(runs["moved"], {**spread, "resume": True})]
    statuses, said = run_jobs(tmp_path, jobs)
    assert statuses == [[0, 0]] * 4 + [[-9, -9], [-9, -9], [0, 0]], said
    for ours, expected in (("spread", "plain"), ("synced_spread", "synced"), ("moved", "plain")):
        for name in ("side.safetensors", "last.safetensors", "broken.json"):
            assert (runs[ours] / name).read_bytes() == (runs[expected] / name).read_bytes(), f"{ours}/{name}"
        assert history(runs[ours]) == history(runs[expected])
    assert (runs["plain"] / "last.safetensors").read_bytes() != (runs["synced"] / "last.safetensors").read_bytes()


def test_sweeps_on_two_processes_end_as_trainings_do(tmp_path: Path) -> None:
    variants: dict[str, dict[str, Any]] = {"slow": {"optim.lr": 1e-3}, "fast": {"optim.lr": 1e-2, "optim.ema": 0.8}}
    options: dict[str, Any] = {"processes": 2, "videos": 16, "broken": [0, 1, 2, 5, 9, 14]}
    options["settings"] = {**SMALL, "data.batch_size": 1, "data.broken_tolerance": 0.4}
    jobs = [
        (tmp_path / name, {**options, "sweep": variants, "shard": name == "spread"}) for name in ("whole", "spread")
    ]
    jobs += [
        (tmp_path / "alone" / name, {**options, "settings": {**options["settings"], **more}})
        for name, more in variants.items()
    ]
    statuses, said = run_jobs(tmp_path, jobs)
    assert statuses == [[0, 0]] * 4, said
    for name in variants:
        alone = tmp_path / "alone" / name
        for sweep in ("whole", "spread"):
            for file in ("side.safetensors", "last.safetensors"):
                assert (tmp_path / sweep / name / file).read_bytes() == (alone / file).read_bytes(), f"{sweep}/{name}"
            assert history(tmp_path / sweep / name) == history(alone)


def test_spread_evaluation_is_that_of_one_process(tmp_path: Path) -> None:
    # 15 videos over 4 processes: the last one has fewer batches than the others
    out = tmp_path / "run"
    jobs: list[tuple[Path, dict[str, Any]]] = [(out, {"settings": {"optim.epochs": 1}})]
    jobs += [(out, {"evaluate": str(tmp_path / "one")})]
    jobs += [(out, {"processes": count, "shard": True, "evaluate": str(tmp_path / f"{count}")}) for count in (2, 4)]
    statuses, said = run_jobs(tmp_path, jobs)
    assert statuses == [[0], [0], [0, 0], [0, 0, 0, 0]], said
    expected = json.loads((tmp_path / "one.0").read_text())
    for count in (2, 4):
        for rank in range(count):
            assert json.loads((tmp_path / f"{count}.{rank}").read_text()) == expected


def test_the_real_command_spreads_and_what_it_leaves_is_a_run(
    clips: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(clips / "train"), "--val", str(clips / "val"), "--epochs", "1", *settings("data.batch_size=2")]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "side4video.cli.main", "train", *words, "--out", str(out), "--devices", "2"]
    done = subprocess.run(
        [*command, "backbone.shard=true"], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    # of 4.7 MiB of tiny-clip, 4.5 are blocks
    assert re.search(r"backbone tiny-clip +frozen +80 +1,239,552 +0 +2\.\d MiB", done.stderr), done.stderr
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert main(["evaluate", str(out), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["num_videos"] == 6
