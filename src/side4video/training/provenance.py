"""Where a result comes from: versions, commit, command and hardware, as plain JSON values."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from side4video.version import __version__

LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch", "av", "lightning-fabric", "numpy", "safetensors")
GIT_SECONDS = 5


def provenance() -> dict[str, Any]:
    """Versions, commit of a source checkout (null for an installed package), command line and machine."""
    # torch's own word says for which CUDA it was built
    versions = {name: _version(name) for name in LIBRARIES} | {"torch": str(torch.__version__)}
    return {
        "side4video": __version__,
        "commit": source_commit(),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": versions,
        "hardware": hardware(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, threads in use, and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def source_commit() -> str | None:
    """The git commit that this package's source lies in, with `-dirty` when it was changed; null when in none."""
    folder = Path(__file__).resolve().parent
    # a package installed inside somebody's repository is not of that repository's commit
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if _git(folder.parent, "status", "--porcelain", ".") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
