"""The fuzz campaign: hostile files into every reader, each in a process of its own with limits, and what came of them.

    python benchmarks/fuzz.py --inputs 10000 --work /tmp/fuzz      goes on where it stopped, as long as --work is there
    python benchmarks/fuzz.py --only 4711 --work /tmp/fuzz         one input again, with all that it says

An input is made from its seed alone. A process that has everything imported forks one child for each input; the child
gets limits on address space and processor time, and is killed when it is over the wall-clock limit. Outcomes are those
of `fuzzing/outcome.py`. Frames whose bits were damaged and that the decoder shows without a word are counted apart: see
`bitstream_damage.py`. Writes `benchmarks/results/fuzz.json` with command, commit and hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fuzzing import folder_cases, picture_cases, text_cases, video_cases
from fuzzing.bases import Bases, prepare
from fuzzing.outcome import ALLOWED, FAILURES, Judged
from side4video.training.files import write_json
from side4video.training.provenance import hardware, source_commit

RESULT = Path(__file__).parent / "results" / "fuzz.json"
CASES = {**video_cases.CASES, **picture_cases.CASES, **text_cases.CASES, **folder_cases.CASES}
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one input may take; more is a failure. The address space is only where the process is stopped."""

    cpu_seconds: int = 20
    wall_seconds: int = 90
    resident_mib: int = 2048
    address_mib: int = 6144


@dataclass(frozen=True)
class Outcome:
    """One line of the record."""

    seed: int
    family: str
    mutation: str
    outcome: str
    detail: str
    counts: dict[str, int]
    seconds: float
    resident_mib: int
    commit: str = ""


def run_one(seed: int, work: Path, bases: Bases, limits: Limits, *, keep: bool = False) -> Outcome:
    """Make the input of a seed in a child process, read it there, and say what came of it."""
    folder = work / "inputs" / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reading, writing = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(seed, folder, bases, limits, writing)
    os.close(writing)
    text, is_late = b"", False
    while True:
        left = begun + limits.wall_seconds - time.monotonic()
        if left <= 0:
            is_late = True
            os.kill(pid, signal.SIGKILL)
            break
        if select.select([reading], [], [], left)[0]:
            part = os.read(reading, 1 << 16)
            if not part:
                break
            text += part
    os.close(reading)
    _, status, usage = os.wait4(pid, 0)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    answers = [json.loads(line) for line in text.split(b"\n")[:-1]]
    named = answers[0] if answers else {"family": "?", "mutation": "?", "resident": 0}
    grown = max(0, usage.ru_maxrss * 1024 - named["resident"])
    said = answers[-1] if len(answers) > 1 else None
    judged = _judge_end(os.waitstatus_to_exitcode(status), is_late=is_late, said=said)
    if judged.outcome in ALLOWED and grown > limits.resident_mib * MIB:
        judged = Judged("memory", f"{grown // MIB} MiB; {judged.outcome}: {judged.detail}", judged.counts)
    seconds = round(usage.ru_utime + usage.ru_stime, 3)
    mutation = said["mutation"] if said else named["mutation"]
    return Outcome(seed, named["family"], mutation, judged.outcome, judged.detail, judged.counts, seconds, grown // MIB)


def _begin(seed: int) -> tuple[random.Random, str]:
    """The randomness of an input, and the family that it chooses."""
    rng = random.Random(seed)
    return rng, rng.choices(list(CASES), [weight for weight, _ in CASES.values()])[0]


def _judge_end(code: int, *, is_late: bool, said: dict[str, Any] | None) -> Judged:
    if is_late or code == -signal.SIGXCPU:
        return Judged("hang", "over the limit of time")
    if said is not None and code == 0:
        return Judged(said["outcome"], said["detail"], said["counts"])
    return Judged("crash", f"the process ended with {code}" if said is None else f"{code} after {said}")


def _child(seed: int, folder: Path, bases: Bases, limits: Limits, answers: int) -> None:
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        if "FUZZ_LOUD" not in os.environ:
            os.dup2(null, 1)
            os.dup2(null, 2)
        space = _address_bytes() + limits.address_mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        rng, family = _begin(seed)
        _say(answers, {"family": family, "mutation": "?", "resident": _resident_bytes()})
        mutation, judged = CASES[family][1](rng, folder, bases)
        _say(answers, {"mutation": mutation, **asdict(judged)})
        status = 0
    except BaseException:  # noqa: BLE001 - a mistake of the harness, told as a crash
        _say(answers, {"mutation": "?", **asdict(Judged("crash", traceback.format_exc()[-600:]))})
        status = 3
    finally:
        os._exit(status)


def _say(answers: int, value: dict[str, Any]) -> None:
    os.write(answers, json.dumps(value).encode() + b"\n")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _address_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def campaign(
    first: int,
    inputs: int,
    work: Path,
    *,
    limits: Limits,
    seconds: float | None = None,
    with_long: bool = True,
    family: str = "",
) -> list[Outcome]:
    """The outcomes of seeds from `first` on: as many as wanted, or as fit into `seconds`; known ones are not run again.

    The record is a file of JSON lines in `work`. With `family`, only inputs of the families that begin so.
    """
    torch.set_num_threads(1)
    os.environ["FUZZ_BASES"] = str(work)
    bases = prepare(work, with_long=with_long)
    video_cases.warm(bases)
    folder_cases.warm(work)
    record = work / "outcomes.jsonl"
    done = _read_record(record)
    begun, commit = time.monotonic(), source_commit()
    with record.open("a", encoding="utf-8") as file:
        for seed in range(first, first + inputs):
            if seconds is not None and time.monotonic() - begun > seconds:
                break
            if seed not in done and _begin(seed)[1].startswith(family):
                done[seed] = replace(run_one(seed, work, bases, limits), commit=commit or "")
                file.write(json.dumps(asdict(done[seed])) + "\n")
                file.flush()
    return [done[seed] for seed in sorted(done) if first <= seed < first + inputs]


def _read_record(record: Path) -> dict[int, Outcome]:
    if not record.is_file():
        return {}
    content = record.read_text(encoding="utf-8")
    lines = content[: content.rfind("\n") + 1].splitlines()
    return {value["seed"]: Outcome(**value) for value in map(json.loads, lines)}


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts by family and outcome, failures in full, frames by what they showed, the most time and memory."""
    families = {family: dict(Counter(o.outcome for o in outcomes if o.family == family)) for family in sorted(CASES)}
    frames: Counter[str] = Counter()
    for outcome in (o for o in outcomes if o.family.startswith("video")):
        frames.update({key: value for key, value in outcome.counts.items() if key != "num_frames"})
    return {
        "inputs": len(outcomes),
        "outcomes": {name: sum(o.outcome == name for o in outcomes) for name in (*ALLOWED, *FAILURES)},
        "families": families,
        "frames": dict(sorted(frames.items())),
        "commits": dict(Counter(o.commit for o in outcomes)),
        "most_cpu_seconds": max((o.seconds for o in outcomes), default=0),
        "most_resident_mib": max((o.resident_mib for o in outcomes), default=0),
        "failures": [asdict(o) for o in outcomes if o.outcome in FAILURES],
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this seed alone, and all that it says")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--family", default="", help="only inputs of the families that begin so")
    parser.add_argument("--no-long", action="store_true", help="without the videos of ten hours, which take room")
    parser.add_argument("--work", type=Path, required=True, help="bases and the record of outcomes")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    limits = Limits()
    commit = source_commit()
    if args.only is not None:
        os.environ.update(FUZZ_LOUD="1", FUZZ_BASES=str(args.work))
        bases = prepare(args.work)
        folder_cases.warm(args.work)
        print(json.dumps(asdict(run_one(args.only, args.work, bases, limits, keep=True)), indent=1))
        print(f"its files: {args.work / 'inputs' / str(args.only)}", file=sys.stderr)
        return
    options = {"seconds": args.seconds, "family": args.family, "with_long": not args.no_long}
    outcomes = campaign(args.first_seed, args.inputs, args.work, limits=limits, **options)
    found = summary(outcomes)
    words = f"--inputs {args.inputs} --first-seed {args.first_seed}"
    write_json(
        args.out,
        {
            "command": f"python benchmarks/fuzz.py {words} --work WORK",
            "commit": commit,
            "hardware": hardware(),
            "limits": asdict(limits),
            **found,
        },
    )
    print(json.dumps({key: found[key] for key in ("inputs", "outcomes", "frames")}, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
