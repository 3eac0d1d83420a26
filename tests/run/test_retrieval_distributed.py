"""Two processes with half the batch each have the gradient of one with the whole batch, through the training loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[1] / "assets" / "small_retrieval_run.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
BATCH, STEPS = 6, 2
# what compares embeddings sees the whole batch in every process
COMPARES = ("wti.", "logit_scale")
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "layer": ("layer", {}),
    "synced": ("batch", {"train.sync_bn": True}),
    "apart": ("batch", {}),
    "released": ("layer", {"retrieval.gather_gradient": "released"}),
    "chunks": ("layer", {"retrieval.chunk_size": 2}),
    "spread": ("batch", {}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the gradients of every run, of one process and of two."""
    folder = tmp_path_factory.mktemp("runs")
    jobs: list[tuple[str, dict[str, Any]]] = []
    for name, (norm, settings) in RUNS.items():
        for processes in (1, 2):
            run = f"{name}{processes}"
            options = {"norm": norm, "settings": settings, "batch": BATCH, "grads": str(folder / f"{run}.grads")}
            jobs.append((str(folder / run), {**options, "processes": processes, "shard": name == "spread"}))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(SCRIPT), "--jobs", str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[0], [0, 0]] * len(RUNS), done.stderr
    return folder


def gradients(folder: Path, run: str, rank: int = 0) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"{run}.grads.{rank}.{step}") for step in range(STEPS)]


def largest_error(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative to each tensor's largest; what is zero in theory (a bias before a norm, a key's) is left out."""
    assert ours.keys() == expected.keys()
    assert len(ours) > 40
    scale = max(float(value.abs().max()) for value in expected.values())
    checked = [name for name, value in expected.items() if float(value.abs().max()) > 1e-5 * scale]
    assert len(checked) > 35
    return max(float((ours[n] - expected[n]).abs().max() / expected[n].abs().max()) for n in checked)


@pytest.mark.parametrize("name", ["layer", "synced", "chunks"])
def test_two_processes_give_the_gradient_of_one(runs: Path, name: str) -> None:
    # chunks of 2 are those of one process too: with a layer norm they change nothing
    for step, expected in enumerate(gradients(runs, "layer1" if name == "chunks" else f"{name}1")):
        first, second = (gradients(runs, f"{name}2", rank)[step] for rank in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first), "every process has the same"
        # rounding of float32; the second step also has the first one's in its weights
        assert largest_error(first, expected) < (2e-4 if step == 0 else 1e-3)


def test_batch_norm_of_each_process_alone_is_another_model(runs: Path) -> None:
    assert largest_error(gradients(runs, "apart2")[0], gradients(runs, "apart1")[0]) > 0.05


def test_blocks_that_are_spread_give_the_same_bits(runs: Path) -> None:
    for name in ("side.safetensors", "last.safetensors"):
        assert (runs / "spread2" / name).read_bytes() == (runs / "apart2" / name).read_bytes()
    for ours, expected in zip(gradients(runs, "spread2", 1), gradients(runs, "apart2", 1), strict=True):
        assert all(torch.equal(ours[key], expected[key]) for key in expected)


def test_the_released_factor_is_a_setting(runs: Path) -> None:
    ours, expected = gradients(runs, "released2")[0], gradients(runs, "layer1")[0]
    halved = {name: value / (1 if name.startswith(COMPARES) else 2) for name, value in expected.items()}
    assert largest_error(ours, halved) < 2e-4
    assert largest_error(gradients(runs, "released1")[0], expected) < 1e-6, "one process gathers nothing"
