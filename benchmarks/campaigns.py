"""Kill -9 and full disks, at random moments, in whatever writes: training, feature cache, index, prepare, evaluation.

    python benchmarks/campaigns.py --kills 10 --full 6        writes benchmarks/results/campaigns.json

A killed command is run again as its user would, and must leave what a command leaves that nobody disturbed: the same
weights, the same cache, the same library, the same clips, to the last bit. (`index_kills.py` kills the index.)

On a full disk a command must end with exit code 2 and a message without a traceback; what was there before must still
be there; and after room was made the same command must succeed and leave the same. The disk is a small tmpfs, which
needs root; without it (`--limit`) no file may grow beyond a size drawn at random (RLIMIT_FSIZE), which fails as a full
disk does.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from run.published import draw_ssv2  # noqa: E402
from run.retrieval_runs import write_retrieval_run  # noqa: E402
from run.small_runs import CLASSES, draw_clip, settings  # noqa: E402
from side4video import build  # noqa: E402, F401 - imported once, for all forks
from side4video.cache import store  # noqa: E402
from side4video.cli import evaluate, index, predict, prepare, train  # noqa: E402, F401
from side4video.cli.main import main as command  # noqa: E402
from side4video.search import indexing, query  # noqa: E402, F401
from side4video.search.library import open_library  # noqa: E402
from side4video.training.files import write_json  # noqa: E402
from side4video.training.provenance import hardware, source_commit  # noqa: E402

RESULT = Path(__file__).parent / "results" / "campaigns.json"
LONGEST_SECONDS = 240.0
# shards of four clips, so that a cache has several
SHARD_BYTES = 4 * 1_300_000


@dataclass(frozen=True)
class Job:
    """A command that writes below `out`: its words, and the words to run it again after it was killed."""

    name: str
    words: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    digest: Callable[[Path], dict[str, str]]


def jobs(material: Path) -> dict[str, Job]:
    """All commands on the small data sets in `material`."""
    data = [str(material / "clips" / "train"), "--val", str(material / "clips" / "val")]
    short = settings("train.loggers=[csv]", "optim.warmup_epochs=0", "train.save_every_steps=1")

    def training(out: Path, *more: str) -> list[str]:
        return ["train", *data, "--out", str(out / "run"), "--epochs", "2", *short, *more]

    def going_on(out: Path, *more: str) -> list[str]:
        words = training(out, *more)
        return [*words[:1], "--resume", *words[1:]] if (out / "run" / "config.yaml").is_file() else words

    def cached(out: Path) -> tuple[str, ...]:
        return "--cache", str(out / "cache"), "--yes"

    def same(words: Callable[..., list[str]], name: str, digest: Callable[[Path], dict[str, str]]) -> Job:
        return Job(name, words, words, digest)

    return {
        "train": Job("train", training, going_on, _weights),
        "cache": Job(
            "cache",
            lambda out: training(out, *cached(out)),
            lambda out: going_on(out, *cached(out)),
            lambda out: {**_weights(out), **_files(out / "cache", "*.safetensors")},
        ),
        "prepare": same(
            lambda out: ["prepare", "ssv2", str(material / "ssv2"), str(out / "dst"), "--size", "48", "--workers", "1"],
            "prepare",
            lambda out: _files(out / "dst", "**/*.mp4", "*.txt", "*.csv"),
        ),
        "index": same(
            lambda out: ["index", str(material / "retrieval"), str(material / "clips"), "--into", str(out / "lib")],
            "index",
            _library,
        ),
        "evaluate": same(
            lambda out: [
                *("evaluate", str(material / "trained"), "--scores", str(out / "scores.csv")),
                *("--report", str(out / "report.html"), "--workers", "0"),
            ],
            "evaluate",
            lambda out: _files(out, "scores.csv"),
        ),
        "timeline": same(
            lambda out: [
                *("predict", str(material / "trained"), str(material / "clips" / "val" / CLASSES[0] / "0.mp4")),
                *("--timeline", "--out", str(out / "timeline.json"), "--out", str(out / "timeline.html")),
            ],
            "timeline",
            lambda out: _files(out, "timeline.json"),
        ),
    }


def _files(folder: Path, *patterns: str) -> dict[str, str]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def _weights(out: Path) -> dict[str, str]:
    return _files(out / "run", "side.safetensors", "last.safetensors")


def _library(out: Path) -> dict[str, str]:
    """Every window with its vectors, read in a process of its own: the database's threads do not survive a fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException), open_library(out / "lib", wait_seconds=30) as library:
            found = {
                f"{stored.window.path} {stored.window.number}": hashlib.sha256(
                    stored.frames_TE.numpy().tobytes() if stored.frames_TE is not None else b""
                ).hexdigest()
                for batch in library.store.scan(with_frames=True)
                for stored in batch
            }
            os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {}


def make_material(folder: Path, *, with_run: bool = True) -> None:
    """Clips, a published data set, a retrieval run, and a trained run where it is needed."""
    for split, count, first in (("train", 4, 0), ("val", 2, 100)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                draw_clip(folder / "clips" / split / name / f"{number}.mp4", name, seed=first + 10 * label + number)
    draw_ssv2(folder / "ssv2")
    write_retrieval_run(folder / "retrieval")
    if not with_run:
        return
    data = [str(folder / "clips" / "train"), "--val", str(folder / "clips" / "val")]
    status, _ = run(["train", *data, "--out", str(folder / "trained"), "--epochs", "1", *settings()], folder)
    assert status == 0, (folder / "log").read_text()


def run(
    words: list[str], folder: Path, *, kill_after: float | None = None, limit_bytes: int | None = None
) -> tuple[int, float]:
    """One command in a process of its own: its exit status, as a shell counts, and its seconds; `log` has its words."""
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(words, folder / "log", limit_bytes)
    is_killed = False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - begun
        if ended:
            return os.waitstatus_to_exitcode(status), seconds
        if not is_killed and (seconds > LONGEST_SECONDS or (kill_after is not None and seconds > kill_after)):
            os.kill(pid, signal.SIGKILL)
            is_killed = True
        time.sleep(0.002)


def _child(words: list[str], log: Path, limit_bytes: int | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 70
    try:
        torch.set_num_threads(1)
        store.SHARD_BYTES = SHARD_BYTES
        if limit_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        status = command(words)
    except BaseException as error:  # noqa: BLE001 - nobody else is there to tell
        os.write(2, f"Traceback: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def kill(job: Job, folder: Path, whole: dict[str, str], seconds: float, draw: random.Random) -> dict[str, Any]:
    """Kill the command once, or twice, and run it again: is the result the same?"""
    out = folder / "killed"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    moments: list[float] = []
    statuses: list[int] = []
    for _ in range(draw.choice((1, 1, 2))):
        moments.append(round(draw.uniform(0, 0.7 * seconds), 3))
        words = job.words(out) if not statuses else job.again(out)
        statuses.append(run(words, folder, kill_after=moments[-1])[0])
    code, _ = run(job.again(out), folder)
    return {
        "moments": moments,
        "killed": statuses.count(-signal.SIGKILL),
        "code": code,
        "equal": job.digest(out) == whole,
        "message": "" if code == 0 else (folder / "log").read_text()[-400:],
    }


def fill(job: Job, folder: Path, whole: dict[str, str], size: int, need: int, *, limit: bool) -> dict[str, Any]:
    """Run on a disk of `size` bytes, make room, run again."""
    out = folder / "full"
    out.mkdir(exist_ok=True)
    with contextlib.nullcontext() if limit else _small_disk(out, size):
        code, _ = run(job.words(out), folder, limit_bytes=size if limit else None)
        message = (folder / "log").read_text()
        if not limit:
            # twice what the whole takes, and the database's log files
            subprocess.run(["mount", "-o", f"remount,size={4 * need + 2**28}", str(out)], check=True)
        again, _ = run(job.again(out), folder)
        found = {
            "size": size,
            "code": code,
            "is_clear": code == 2 and "Traceback" not in message,
            "message": message[-300:],
            "again": again,
            "equal": again == 0 and job.digest(out) == whole,
        }
        if not found["equal"]:
            found["again_message"] = (folder / "log").read_text()[-400:]
    shutil.rmtree(out, ignore_errors=True)
    return found


@contextlib.contextmanager
def _small_disk(path: Path, size: int) -> Generator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def measure(
    folder: Path, *, kills: int, full: int, seed: int, limit: bool, only: list[str] | None = None
) -> dict[str, Any]:
    """All campaigns; `only` names some of the jobs."""
    draw = random.Random(seed)
    make_material(folder, with_run=only is None or bool({"evaluate", "timeline"} & {*only}))
    found: dict[str, Any] = {"kills": {}, "full": {}}
    for name, job in jobs(folder).items():
        if only is not None and name not in only:
            continue
        out = folder / f"whole-{name}"
        out.mkdir()
        code, seconds = run(job.words(out), folder)
        assert code == 0, f"{name}: {(folder / 'log').read_text()}"
        whole = job.digest(out)
        assert whole, name
        sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
        blocks = [path.stat().st_blocks * 512 for path in out.rglob("*") if path.is_file()]
        found["kills"][name] = [kill(job, folder, whole, seconds, draw) for _ in range(kills)]
        found["full"][name] = []
        while len(found["full"][name]) < full:
            # with a limit on single files, the largest must be too large
            size = (
                draw.randrange(max(sizes) // 4, max(sizes)) if limit else draw.randrange(4096, max(8192, sum(blocks)))
            )
            one = fill(job, folder, whole, size, sum(sizes), limit=limit)
            found["full"][name].append(one)
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Counts by command."""
    return {
        "kills": {
            name: {
                "rounds": len(rounds),
                "killed": sum(r["killed"] > 0 for r in rounds),
                "equal": sum(r["equal"] for r in rounds),
            }
            for name, rounds in found["kills"].items()
        },
        "full": {
            name: {
                "rounds": len(rounds),
                "full": sum(r["code"] != 0 for r in rounds),
                "clear": sum(r["is_clear"] for r in rounds),
                "equal": sum(r["equal"] for r in rounds),
            }
            for name, rounds in found["full"].items()
        },
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--full", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--limit", action="store_true", help="RLIMIT_FSIZE instead of a small tmpfs")
    parser.add_argument("--only", nargs="*", help="these commands only, in place of what the result file has of them")
    args = parser.parse_args()
    commit = source_commit()
    with tempfile.TemporaryDirectory() as work:
        options = {"kills": args.kills, "full": args.full, "seed": args.seed, "limit": args.limit}
        found = measure(Path(work), **options, only=args.only)
        # the folder is only ours
        found = json.loads(json.dumps(found).replace(f"{work}/", ""))
    counts = summary(found)
    print(json.dumps(counts, indent=1))
    for name, rounds in found["full"].items():
        for wrong in (one for one in rounds if not one["equal"] or (one["code"] and not one["is_clear"])):
            print(name, json.dumps(wrong, indent=1), file=sys.stderr)
    for name, kills in found["kills"].items():
        for wrong in (one for one in kills if not one["equal"]):
            print(name, json.dumps(wrong, indent=1), file=sys.stderr)
    if args.only and args.out.is_file():
        before = json.loads(args.out.read_text(encoding="utf-8"))
        found = {part: {**before[part], **found[part]} for part in ("kills", "full")}
        counts = summary(found)
    chosen = f"{' --limit' if args.limit else ''}{' --only COMMAND' if args.only else ''}"
    words = f"--kills {args.kills} --full {args.full} --seed {args.seed}{chosen}"
    report = {"command": f"python benchmarks/campaigns.py {words}", "commit": commit, "hardware": hardware()}
    disk = "no file may grow beyond the size (RLIMIT_FSIZE)" if args.limit else "a tmpfs of the size"
    write_json(args.out, {**report, "disk": disk, "summary": counts, **found})


if __name__ == "__main__":
    main()
