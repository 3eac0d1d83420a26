"""What `side4video plan` itself takes: seconds of processor time and peak memory, for models of every size.

    python benchmarks/plan_cost.py

Each recipe is planned in a process of its own, with no weights and no graphics card. Writes
`benchmarks/results/plan_cost.json`, and the table of `docs/memory.md`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peers.report import put_between
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "plan_cost.json"
PAGE = ROOT / "docs" / "memory.md"
MARKER = "plan_cost"
RECIPES = ("ssv2-b16", "ssv2-l14", "ssv2-e14", "msrvtt-b16")
START = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"cpu_seconds": used.ru_utime + used.ru_stime, "peak_kib": used.ru_maxrss}))
sys.exit(code)
"""


def cost(recipe: str) -> dict[str, Any]:
    """One plan: wall and processor seconds, peak memory of its process, and what it found."""
    command = [sys.executable, "-m", "side4video.cli.main", "plan", recipe, "--memory", "24GB", "--json"]
    begin = time.perf_counter()
    # started from a small process: what a process begins with counts into its peak, and that is its parent's memory
    done = subprocess.run([sys.executable, "-S", "-c", START, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-300:]}")
    text, used = done.stdout.rsplit("\n", 2)[0], json.loads(done.stdout.splitlines()[-1])
    return {
        "wall_seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(used["cpu_seconds"], 1),
        "peak_gib": round(used["peak_kib"] / 2**20, 2),
        "planned_gib": round(json.loads(text)["peak_bytes"] / 2**30, 2),
    }


def table(report: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| recipe | the step it plans, GiB | the plan itself: processor seconds | its peak memory, GiB |",
        "|---|---:|---:|---:|",
    ]
    for recipe, row in report["rows"].items():
        lines.append(f"| `{recipe}` | {row['planned_gib']:.1f} | {row['cpu_seconds']:.0f} | {row['peak_gib']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    rows: dict[str, Any] = {}
    for recipe in RECIPES:
        rows[recipe] = cost(recipe)
        print(recipe, rows[recipe], file=sys.stderr, flush=True)
    report = {
        "command": "python benchmarks/plan_cost.py",
        "commit": source_commit(),
        "side4video": __version__,
        "hardware": hardware(),
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    put_between(PAGE, MARKER, table(report))


if __name__ == "__main__":
    main()
