"""Fixtures for the whole suite: reference values, one thread a process, random state restored after each test."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity"


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Folder of the reference values of the released code; a clone without it skips, and says so."""
    if not PARITY.is_dir():
        pytest.skip(f"REFERENCE VALUES NOT FOUND at {PARITY}: parity with the released code is NOT checked in this run")
    return PARITY


@pytest.fixture(autouse=True)
def _restored_random_state() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    random.setstate(python_state)
    torch.set_num_threads(threads)
