"""Kills `side4video index` at random moments and compares what a rerun leaves with a library that nobody disturbed.

    python benchmarks/index_kills.py [--kills 10] [--seed 1] [--store qdrant-edge|flat]

Twelve drawn clips of 1 to 3 seconds, tiny-clip with random weights. Each moment is drawn anew: a number of videos done
and a share of the next one's time; then SIGKILL, and the same command again. Equal means: the same ledger and, read
back from the store, the same windows with the same vectors to the last bit. Two processes at once come last. Writes
`benchmarks/results/index_kills_STORE.json` with command, commit and hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from side4video.training.provenance import hardware, source_commit

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
NUM_CLIPS = 12
PREPARE = """
import sys
from pathlib import Path
from run.retrieval_runs import write_retrieval_run
from run.small_runs import CLASSES, draw_clip
folder = Path(sys.argv[1])
write_retrieval_run(folder / "run")
for n in range(int(sys.argv[2])):
    draw_clip(folder / "clips" / f"{n:02d}.mp4", CLASSES[n % 3], seed=n, num_frames=11 + 7 * (n % 4))
"""


def measure(kills: int, seed: int, store: str) -> dict[str, Any]:
    """What `tests/assets/kill_index.py` found."""
    with tempfile.TemporaryDirectory() as work:
        prepare = [sys.executable, "-c", PREPARE, work, str(NUM_CLIPS)]
        subprocess.run(prepare, check=True, cwd=ROOT / "tests", env={**os.environ, "PYTHONPATH": str(ROOT / "tests")})
        options = json.dumps({"kills": kills, "seed": seed, "pairs": 1, "store": store})
        script = ROOT / "tests" / "assets" / "kill_index.py"
        words = [sys.executable, str(script), f"{work}/run", f"{work}/clips", f"{work}/libraries", options]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        # the folder is only ours
        return json.loads(done.stdout.replace(f"{work}/", ""))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["qdrant-edge", "flat"], default="qdrant-edge")
    args = parser.parse_args()
    commit = source_commit()
    found = measure(args.kills, args.seed, args.store)
    for kill in found["kills"]:
        print(
            f"killed {kill['killed']} after {kill['acknowledged']:2d} of {found['videos']} videos; again: "
            f"{kill['unchanged']} unchanged, {kill['embedded']} embedded, equal {kill['equal']}"
        )
    report = {
        "command": f"python benchmarks/index_kills.py --kills {args.kills} --seed {args.seed} --store {args.store}",
        "commit": commit,
        "hardware": hardware(),
        "equal": sum(kill["equal"] for kill in found["kills"]),
        **found,
    }
    path = RESULTS / f"index_kills_{args.store}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['equal']} of {len(found['kills'])} equal; {path}")


if __name__ == "__main__":
    main()
