"""`torchrun --max-restarts=1`: a worker that is killed costs what was not saved, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from run.test_distributed import SMALL, history, run_jobs


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
