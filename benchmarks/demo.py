"""Runs `side4video demo --json` as a user would, once a seed, and writes what it printed.

    python benchmarks/demo.py [--task recognition|retrieval] [--seeds 0 1 2]
    python benchmarks/demo.py --docs                 write the README's table from the stored results

Each run is a process of its own, one after the other, so `seconds` is the whole command: drawing, training, evaluating
and the comparison. Writes `benchmarks/results/demo_TASK.json` with command, commit and hardware, every run's numbers,
and for each number the median and the range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from side4video.training.provenance import hardware, source_commit

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- demo begin -->", "<!-- demo end -->"
ROWS = {
    "recognition": (
        ("actions: top-1 with the side network", "top1"),
        ("the same with the frames shuffled", "shuffled_top1"),
        ("linear probe on the frame-average of the frozen features", "probe_top1"),
        ("right direction (of two opposites)", "direction"),
        ("the same with the frames shuffled", "shuffled_direction"),
    ),
    "retrieval": (
        ("text to video: R@1 with the side network", "t2v_r1"),
        ("frozen mean pooling", "frozen_t2v_r1"),
    ),
}


def run_once(task: str, seed: int) -> dict[str, float]:
    """The JSON value of one demo; what it says besides goes to the terminal."""
    words = [sys.executable, "-m", "side4video.cli.main", "demo", "--task", task, "--seed", str(seed), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median and range of every number that the runs share."""
    table: dict[str, dict[str, float]] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        table[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return table


def page_table() -> str:
    """The README's table of all stored results: medians and ranges over the seeds."""
    lines = ["| demo | median | range |", "|---|---:|---:|"]
    notes: list[str] = []
    for task, rows in ROWS.items():
        path = RESULTS / f"demo_{task}.json"
        if not path.exists():
            continue
        report = json.loads(path.read_text(encoding="utf-8"))
        for name, key in rows:
            value = {which: 100 * number for which, number in report["summary"][key].items()}
            lines.append(f"| {name} | {value['median']:.1f} % | {value['min']:.1f} to {value['max']:.1f} % |")
        time = report["summary"]["seconds"]
        lines.append(f"| seconds, all of it | {time['median']:.0f} | {time['min']:.0f} to {time['max']:.0f} |")
        machine = f"{report['hardware']['cores']} cores of {report['hardware']['processor']}"
        notes.append(f"`{report['command']}`, commit `{report['commit'][:12]}`, {machine}")
    return "\n".join([*lines, "", f"Measured by {'; '.join(notes)}."])


def write_page() -> None:
    """Put the table between the README's markers."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{page_table()}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Run every seed, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["recognition", "retrieval"], default="recognition")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--docs", action="store_true", help="run nothing; write the README's table")
    args = parser.parse_args()
    if args.docs:
        write_page()
        return
    commit = source_commit()
    runs: list[dict[str, float]] = []
    for seed in args.seeds:
        runs.append(run_once(args.task, seed))
        print(f"seed {seed}: {json.dumps(runs[-1])}", flush=True)
    report: dict[str, Any] = {
        "command": f"python benchmarks/demo.py --task {args.task} --seeds {' '.join(map(str, args.seeds))}",
        "commit": commit,
        "hardware": hardware(),
        "load_average_after": os.getloadavg()[0],
        "runs": [{"seed": seed, **run} for seed, run in zip(args.seeds, runs, strict=True)],
        "summary": summary(runs),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"demo_{args.task}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, value in report["summary"].items():
        print(f"{name:20} median {value['median']:.3f}   {value['min']:.3f} .. {value['max']:.3f}")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
