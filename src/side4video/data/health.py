"""What is wrong with a data set: every video is opened in parallel, then labels and splits are compared.

A problem would hurt training or make its numbers untrue; a note is worth knowing. Nothing is changed, nothing is
dropped.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path

from side4video.data.decode import open_video
from side4video.data.manifest import ClipRecord, Manifest
from side4video.errors import InputError, VideoError

PROBLEMS = {
    "missing": "paths that do not exist",
    "unreadable": "videos that cannot be read",
    "frame_count": "frame counts that differ from the list file",
    "too_short": "clips with fewer frames than a clip has",
    "label_gap": "classes without clips",
    "one_class": "nothing to tell apart",
    "unknown_class": "classes in validation that training lacks",
    "duplicate_across_splits": "the same clip in training and validation",
    "contradictory_labels": "the same clip under two labels",
}
NOTES = {
    "duplicate": "the same clip more than once in a split",
    "shared_video": "parts of one video in training and validation",
    "class_without_validation": "classes without validation clips",
    "imbalance": "classes of very different sizes",
}
IMBALANCE_RATIO = 10

_HASH_CHUNK_BYTES = 1 << 20
_DEEP_CHUNK_FRAMES = 32


@dataclass(frozen=True)
class Finding:
    """One thing that was found. `kind` is a key of `PROBLEMS` or `NOTES`; `path` is None where it is about a class."""

    kind: str
    split: str
    path: str | None
    detail: str

    @property
    def hurts(self) -> bool:
        """Whether it is a problem rather than a note."""
        return self.kind in PROBLEMS


@dataclass(frozen=True)
class HealthReport:
    """All findings, and how much was looked at."""

    findings: tuple[Finding, ...]
    num_videos: Mapping[str, int]
    num_classes: int

    @property
    def problems(self) -> list[Finding]:
        """Findings that would hurt."""
        return [finding for finding in self.findings if finding.hurts]

    @property
    def notes(self) -> list[Finding]:
        """Findings that are worth knowing."""
        return [finding for finding in self.findings if not finding.hurts]


@dataclass(frozen=True)
class _Task:
    split: str
    record: ClipRecord
    num_frames: int
    deep: bool


def check_health(
    manifests: Mapping[str, Manifest],
    *,
    num_frames: int = 8,
    workers: int = 2,
    deep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> HealthReport:
    """Open every video of every split and compare the splits.

    `manifests` has "train" and maybe "val". `deep` decodes every frame instead of the first, the middle and the last.
    `progress` is called with the number of videos done and their total.
    """
    tasks = [_Task(split, record, num_frames, deep) for split, m in manifests.items() for record in m.records]
    findings: list[Finding] = []
    for done, found in enumerate(_in_processes(tasks, workers), start=1):
        findings.extend(found)
        if progress is not None:
            progress(done, len(tasks))
    unusable = {(f.split, f.path) for f in findings if f.kind in {"missing", "unreadable"}}
    findings += _compare_labels(manifests)
    findings += _compare_contents(manifests, unusable)
    order = [*PROBLEMS, *NOTES]
    findings.sort(key=lambda f: (order.index(f.kind), f.split, f.path or "", f.detail))
    classes = {name for m in manifests.values() for name in m.class_names}
    return HealthReport(tuple(findings), {split: len(m.records) for split, m in manifests.items()}, len(classes))


def check_video(split: str, record: ClipRecord, *, num_frames: int, deep: bool = False) -> list[Finding]:
    """What is wrong with one clip by itself."""
    path = str(record.path)
    if not Path(path).exists():
        return [Finding("missing", split, path, "no such file or folder")]
    try:
        with open_video(path, frame_pattern=record.frame_pattern) as reader:
            count = reader.info.num_frames
            shown = reader.frame_range(record.start_seconds, record.end_seconds)
            if deep:
                for start in range(shown.start, shown.stop, _DEEP_CHUNK_FRAMES):
                    reader.read(range(start, min(start + _DEEP_CHUNK_FRAMES, shown.stop)))
            else:
                reader.read(sorted({shown[0], shown[len(shown) // 2], shown[-1]}))
    except InputError as error:
        reason = error.reason if isinstance(error, VideoError) else str(error).replace(path, Path(path).name)
        return [Finding("unreadable", split, path, reason)]
    except OSError as error:
        return [Finding("unreadable", split, path, error.strerror or str(error))]
    found: list[Finding] = []
    if record.num_frames is not None and record.num_frames != count:
        detail = f"the list says {record.num_frames} frames, there are {count}"
        found.append(Finding("frame_count", split, path, detail))
    if len(shown) < num_frames:
        detail = f"{len(shown)} frames; a clip takes {num_frames}, so some repeat"
        found.append(Finding("too_short", split, path, detail))
    return found


def _in_processes(tasks: Sequence[_Task], workers: int) -> Iterator[list[Finding]]:
    """Findings of each task, as they come. A file that kills its process is named, and the others go on."""
    rest = iter(tasks)
    suspects: list[_Task] = []
    while True:
        try:
            yield from _run_pool(rest, max(1, workers), suspects)
            return
        except BrokenProcessPool:
            in_flight, suspects = suspects, []
        for task in in_flight:
            try:
                yield from _run_pool(iter([task]), 1, [])
            except BrokenProcessPool:
                yield [Finding("unreadable", task.split, str(task.record.path), "crashes the decoder")]


def _run_pool(tasks: Iterator[_Task], workers: int, in_flight: list[_Task]) -> Iterator[list[Finding]]:
    """Run `tasks` in `workers` processes; `in_flight` holds those that were begun and have given nothing yet."""
    context = _start_processes()
    running: dict[Future[list[Finding]], _Task] = {}
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_alone) as pool:
        while True:
            for task in islice(tasks, 2 * workers - len(running)):
                in_flight.append(task)
                running[pool.submit(_check, task)] = task
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                found = future.result()
                in_flight.remove(running.pop(future))
                yield found


def _start_processes() -> BaseContext:
    """Where the processes come from: one that has imported everything and is copied, or new ones where that is not had.

    Ctrl-C reaches the whole process group, and the main process decides what it means: the others ignore it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload([__name__])
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, previous)
    return multiprocessing.get_context("forkserver")


def _leave_interrupts_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check(task: _Task) -> list[Finding]:
    return check_video(task.split, task.record, num_frames=task.num_frames, deep=task.deep)


def _compare_labels(manifests: Mapping[str, Manifest]) -> Iterator[Finding]:
    train = manifests["train"]
    counts = Counter(record.label for record in train.records)
    for label, name in enumerate(train.class_names):
        if not counts[label]:
            yield Finding("label_gap", "train", None, f"class {label} ({name}) has no training clip")
    present = {label: count for label, count in counts.items() if count}
    if len(present) == 1:
        yield Finding("one_class", "train", None, f"all clips are of class {train.class_names[next(iter(present))]}")
    if present:
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        if present[most] >= IMBALANCE_RATIO * present[least]:
            detail = (
                f"{train.class_names[most]} has {present[most]} clips, {train.class_names[least]} has {present[least]};"
                " look at mean_class beside top1"
            )
            yield Finding("imbalance", "train", None, detail)
    if "val" not in manifests:
        return
    val = manifests["val"]
    in_train = {train.class_names[label] for label in present}
    in_val = Counter(val.class_names[record.label] for record in val.records)
    for name, count in in_val.items():
        if name not in in_train:
            yield Finding(
                "unknown_class", "val", None, f"class {name} has {count} validation clips and no training clip"
            )
    for name in train.class_names:
        if name in in_train and name not in in_val:
            yield Finding("class_without_validation", "val", None, f"class {name} is never tested")


def _compare_contents(manifests: Mapping[str, Manifest], unusable: set[tuple[str, str | None]]) -> Iterator[Finding]:
    by_size: defaultdict[tuple[int, ...], list[tuple[str, ClipRecord, str]]] = defaultdict(list)
    for split, manifest in manifests.items():
        for record in manifest.records:
            if (split, str(record.path)) not in unusable:
                name = manifest.class_names[record.label]
                by_size[_sizes(Path(record.path))].append((split, record, name))
    for entries in by_size.values():
        if len(entries) < 2:
            continue
        by_content: defaultdict[str, list[tuple[str, ClipRecord, str]]] = defaultdict(list)
        digests: dict[str, str] = {}
        for entry in entries:
            path = str(entry[1].path)
            if path not in digests:
                digests[path] = _digest(Path(path))
            by_content[digests[path]].append(entry)
        for same in by_content.values():
            yield from _compare_copies(same)


def _compare_copies(same: list[tuple[str, ClipRecord, str]]) -> Iterator[Finding]:
    """Findings among records whose files are equal: each later one against the earlier ones, each kind told once."""
    for position, (split, record, name) in enumerate(same):
        found: dict[str, Finding] = {}
        for other_split, other, other_name in same[:position]:
            labels = f" as {other_name}, here as {name}" if name != other_name else ""
            detail = f"also in {other_split}{labels}: {other.path}"
            for kind in _kinds_of_copy(
                overlap=_overlap(record, other), same_split=split == other_split, same_label=name == other_name
            ):
                found.setdefault(kind, Finding(kind, split, str(record.path), detail))
        yield from found.values()


def _kinds_of_copy(*, overlap: bool, same_split: bool, same_label: bool) -> list[str]:
    if not overlap:
        return [] if same_split else ["shared_video"]
    kinds = [] if same_split else ["duplicate_across_splits"]
    if not same_label:
        kinds.append("contradictory_labels")
    return kinds or ["duplicate"]


def _overlap(one: ClipRecord, other: ClipRecord) -> bool:
    def bounds(record: ClipRecord) -> tuple[float, float]:
        end = float("inf") if record.end_seconds is None else record.end_seconds
        return record.start_seconds or 0.0, end

    (start, end), (other_start, other_end) = bounds(one), bounds(other)
    return start < other_end and other_start < end


def _sizes(path: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_size for file in _files(path))


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK_BYTES):
                total.update(chunk)
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
