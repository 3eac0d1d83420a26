"""The small run of `tests/assets/small_run.py` as fixtures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "assets" / "small_run.py"


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """The module: `small_model()`, `small_settings({...})`, `SmallLoader`, `small_data`."""
    spec = importlib.util.spec_from_file_location("small_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_run"] = module
    spec.loader.exec_module(module)
    return module
