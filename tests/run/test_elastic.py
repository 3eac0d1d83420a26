"""`torchrun --max-restarts=1`: a worker that is killed costs what was not saved, and nothing else."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from run.small_runs import CLASSES, draw_clip, settings
from run.test_distributed import ENVIRONMENT, SMALL, history, run_jobs


def test_a_killed_worker_is_restarted_from_the_last_checkpoint(tmp_path: Path) -> None:
    # 6 steps an epoch, saved after every second: step 4 is the last one that is on the disk
    options: dict[str, Any] = {"processes": 2, "videos": 48, "settings": {**SMALL, "train.save_every_steps": 2}}
    whole, killed, batches = tmp_path / "whole", tmp_path / "killed", tmp_path / "batches"
    restarted = {**options, "kill_at": 5, "kill_rank": 1, "once": str(tmp_path / "once"), "batches": str(batches)}
    statuses, said = run_jobs(tmp_path, [(whole, options), (killed, restarted)])
    assert statuses == [[0, 0], [0]], said
    # which of the two the agent hears of first, the killed one or the one that lost it, is chance
    assert (tmp_path / "once").exists()
    assert "failed (exitcode: " in said
    given = [int(line) for line in batches.read_text().split()]
    # it went on, and did not begin anew
    assert given[:5] == [0, 1, 2, 3, 4]
    assert given[-8:] == list(range(4, 12))
    assert len(given) <= 14
    for name in ("side.safetensors", "last.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert history(killed) == history(whole)
    assert json.loads((killed / "run.json").read_text())["status"] == "finished"


def test_the_command_of_the_docs_survives_a_killed_worker(tmp_path: Path) -> None:
    for number, name in enumerate(CLASSES * 4):
        draw_clip(tmp_path / "clips" / "train" / name / f"{number}.mp4", name, seed=number)
        draw_clip(tmp_path / "clips" / "val" / name / f"{number}.mp4", name, seed=50 + number)
    out = tmp_path / "run"
    agent = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    agent += ["--rdzv_endpoint=localhost:0", "--max_restarts=1", "--monitor_interval=0.05"]
    words = ["-m", "side4video.cli.main", "train", str(tmp_path / "clips" / "train")]
    words += ["--val", str(tmp_path / "clips" / "val"), "--out", str(out), "--resume", "--epochs", "6"]
    more = settings("data.batch_size=3", "optim.warmup_epochs=0", "train.loggers=[csv]", "train.save_every_steps=1")
    command = [sys.executable, *agent, *words, *more]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True) as running:
        saved, worker = 0, 0
        deadline = time.monotonic() + 100
        while saved < 3 and running.poll() is None and time.monotonic() < deadline:
            saved = max((int(path.name.split("-")[1]) for path in out.glob("state/step-*[0-9]")), default=0)
            time.sleep(0.02)
        if running.poll() is None:
            worker = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()[-1])
            os.kill(worker, signal.SIGKILL)
        _, said = running.communicate(timeout=150)
    assert worker, said
    assert saved >= 3, said
    assert running.returncode == 0, said
    (resumed,) = re.findall(r"resuming after (\d+) of 12 batches", said)
    assert int(resumed) >= saved, said
    with (out / "logs" / "epochs.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [*range(1, 7)]
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
