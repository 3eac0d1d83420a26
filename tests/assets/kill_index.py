"""Kills `side4video index` with SIGKILL at random moments; what a rerun leaves is compared with a whole library.

    python tests/assets/kill_index.py RUN FOOTAGE FOLDER '{"kills": 10, "seed": 0, "store": "qdrant-edge"}'

Every moment is a place among the videos and a share of one video's time, drawn anew. With `"pairs": 1` two processes
also index into one new library at once, with and without `--wait`. Prints one JSON value. Importing torch takes longer
than all the rest, so it is done once, and each index runs in a fork.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from side4video.cli import embed, index, search, search_model  # noqa: F401 - once, for all forks
from side4video.cli.main import main
from side4video.search import indexing, query  # noqa: F401
from side4video.search.library import LEDGER_FILE, open_library

_POLL_SECONDS = 0.002
_LONGEST_SECONDS = 240.0


class Child:
    """One `side4video index` in a process of its own."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        self.begun = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(os.open(log.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            try:
                status = main(["index", *words, "--json"])
            except BaseException as error:  # noqa: BLE001 - nobody else is there to tell
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                status = 70
            sys.stdout.flush()
            os._exit(status)
        self.status: int | None = None

    def is_over(self) -> bool:
        """Whether it has ended; `status` is as a shell counts."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - self.begun > _LONGEST_SECONDS:
                os.kill(self.pid, signal.SIGKILL)
        return self.status is not None

    def wait(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, the JSON that it printed, and its messages."""
        while not self.is_over():
            time.sleep(_POLL_SECONDS)
        assert self.status is not None
        text = self.log.read_text()
        return self.status, json.loads(text) if self.status in (0, 1) else {}, self.log.with_suffix(".err").read_text()


def acknowledged(library: Path) -> int:
    """Complete lines about videos in the ledger."""
    try:
        content = (library / LEDGER_FILE).read_bytes()
    except OSError:
        return 0
    return sum(b'"op": "video"' in line for line in content[: content.rfind(b"\n") + 1].splitlines())


def contents(library: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, torch.Tensor]]]:
    """Everything in a library: the videos that count, and every window that is stored, with its vectors."""
    with open_library(library, wait_seconds=30) as opened:
        windows = {
            found.window.id: (found.window, found.frames_TE)
            for batch in opened.store.scan(with_frames=True)
            for found in batch
        }
        assert len(windows) == opened.store.count()
        return dict(opened.entries), windows


def equal(first: Path, second: Path) -> bool:
    """Whether two libraries hold the same, to the last bit."""
    (entries, windows), (other_entries, other_windows) = contents(first), contents(second)
    return (
        entries == other_entries
        and windows.keys() == other_windows.keys()
        and all(
            window == other_windows[key][0] and torch.equal(frames_TE, other_windows[key][1])
            for key, (window, frames_TE) in windows.items()
        )
    )


def kill_and_rerun(words: list[str], folder: Path, *, moment: float, video_seconds: float) -> dict[str, Any]:
    """Kill one run at `moment`, in videos, and run again."""
    library = folder / "killed"
    shutil.rmtree(library, ignore_errors=True)
    child = Child([*words, "--into", str(library)], folder / "killed.log")
    while not child.is_over() and acknowledged(library) < int(moment):
        time.sleep(_POLL_SECONDS)
    time.sleep((moment - int(moment)) * video_seconds)
    if not child.is_over():
        os.kill(child.pid, signal.SIGKILL)
    while not child.is_over():
        time.sleep(_POLL_SECONDS)
    known = acknowledged(library)
    code, value, messages = Child([*words, "--into", str(library)], folder / "again.log").wait()
    return {
        "moment": round(moment, 3),
        "killed": child.status == -signal.SIGKILL,
        "acknowledged": known,
        "code": code,
        "unchanged": value.get("unchanged"),
        "embedded": value.get("embedded"),
        "equal": code == 0 and equal(library, folder / "whole"),
        "messages": messages,
    }


def two_at_once(words: list[str], folder: Path) -> dict[str, Any]:
    """Two processes into one new library: the second says who is there, or waits."""
    found: dict[str, Any] = {}
    for name, more in (("refused", []), ("waiting", ["--wait"])):
        library = folder / name
        children = [Child([*words, "--into", str(library), *more], folder / f"{name}{n}.log") for n in range(2)]
        ends = [child.wait() for child in children]
        found[name] = {
            "codes": sorted(code for code, _, _ in ends),
            "messages": [message for _, _, message in ends if message],
            "equal": equal(library, folder / "whole"),
        }
    return found


def run(run_folder: str, footage: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The whole measurement."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    words = [run_folder, footage, "--store", options.get("store", "qdrant-edge"), *options.get("words", [])]
    whole = Child([*words, "--into", str(folder / "whole")], folder / "whole.log")
    while acknowledged(folder / "whole") < 1 and not whole.is_over():
        time.sleep(_POLL_SECONDS)
    first = time.monotonic()
    code, value, messages = whole.wait()
    assert code == 0, messages
    video_seconds = (time.monotonic() - first) / value["videos"]
    moments = random.Random(options.get("seed", 0))
    kills = [
        kill_and_rerun(words, folder, moment=moments.uniform(0, value["videos"]), video_seconds=video_seconds)
        for _ in range(options.get("kills", 10))
    ]
    pairs = [two_at_once(words, folder) for _ in range(options.get("pairs", 0))]
    return {"videos": value["videos"], "windows": value["windows"], "kills": kills, "pairs": pairs}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])), indent=1))
