"""Prepares a data set: clips resized in parallel, then the lists of what is there. Stopped anywhere, it goes on.

    prepared.jsonl      one line a clip that is done, with its frames; a torn last line is passed over
    prepare.json        data set and form, so that a second call does not mix two; at the end also what was found
    videos/ or frames/  the clips
    train.txt ...       `videos/ID.mp4 label` or `frames/ID frames label`; classes.csv, `id,name`
    {data set}_data/    the caption files of a text-video data set, their lists cut down to what is there
    problems.txt        one line a clip that is missing or broken

A clip is done when it is there under its name. The source is read and never changed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from side4video.errors import ConfigError, DataError, VideoError
from side4video.prepare.pool import in_processes
from side4video.prepare.resize import Form, check_clip, count_frames, write_clip
from side4video.prepare.sources import CAPTION_FOLDERS, Clip, Source
from side4video.training.files import write_bytes, write_json

JOURNAL, STATE, LOCK, PROBLEMS = "prepared.jsonl", "prepare.json", ".prepare.lock", "problems.txt"
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one clip: its frames, or why it could not be read."""

    num_frames: int | None
    reason: str = ""


@dataclass(frozen=True)
class Prepared:
    """The whole: clips by split that are ready (or readable, where they were only checked), and those that are not.
    `written` counts the clips of this call; the rest had been there."""

    source: Source
    ready: dict[str, int]
    broken: tuple[tuple[Clip, str], ...]
    written: int
    lists: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Nothing is missing or broken."""
        return not self.broken and not self.source.missing


@dataclass(frozen=True)
class _Task:
    clip: Clip
    target: str | None
    form: Form


def check(source: Source, *, workers: int, progress: Progress) -> Prepared:
    """Open every clip that is there; `progress` is told how many are done."""
    tasks = [_Task(clip, None, Form()) for clip in _one_each(source.clips) if clip.source is not None]
    return _summary(source, dict(_run(tasks, workers, progress, lambda _clip, _found: None)), written=0)


def prepare(source: Source, folder: Path, form: Form, *, workers: int, progress: Progress) -> Prepared:
    """Write the clips that are not yet in `folder`, then the lists; `progress` is told how many are done.

    Raises:
        ConfigError: `folder` was prepared otherwise, or another call is at work in it.
        DataError: no clip is ready at the end.
        OSError: the folder cannot be written, or the disk is full; what is done stays.
        KeyboardInterrupt: on Ctrl-C; the same command goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STATE).is_file() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty, and holds no {STATE} of an earlier call; choose another DST")
    with _locked(folder):
        _check_state(source, folder, form)
        clips = [clip for clip in _one_each(source.clips) if clip.source is not None and _wanted(source, clip)]
        done = _already(folder, form, clips)
        progress(len(done))
        tasks = [_Task(clip, str(folder / place(clip, form)), form) for clip in clips if place(clip, form) not in done]
        found = {clip.target: Outcome(done[place(clip, form)]) for clip in clips if place(clip, form) in done}
        _remove_partial(folder, form, tasks)
        try:
            with (folder / JOURNAL).open("a", encoding="utf-8") as journal:

                def note(clip: Clip, outcome: Outcome) -> None:
                    if outcome.num_frames is not None:
                        line = {"clip": place(clip, form), "frames": outcome.num_frames}
                        journal.write(json.dumps(line) + "\n")
                        journal.flush()

                for target, outcome in _run(tasks, workers, lambda count: progress(len(done) + count), note):
                    found[target] = outcome
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; what is done in {folder} stays, and the same command goes on") from None
        result = _summary(source, found, written=sum(task.clip.target in found for task in tasks))
        result = replace(result, lists=tuple(_write_lists(source, folder, form, found)))
        _write_problems(folder, result)
        write_json(folder / STATE, _state(source, form) | {"complete": result.complete, "ready": result.ready})
        return result


def place(clip: Clip, form: Form) -> str:
    """Where a clip lies in the prepared folder."""
    return f"{form.to}/{clip.target}{form.suffix}"


def problems_of(result: Prepared) -> list[dict[str, str]]:
    """Each clip that is missing or broken, with the reason."""
    listed = [{"clip": c.name, "split": c.split, "problem": "missing"} for c in result.source.missing]
    return listed + [
        {"clip": clip.name, "split": clip.split, "path": str(clip.source), "problem": reason}
        for clip, reason in result.broken
    ]


def _wanted(source: Source, clip: Clip) -> bool:
    return source.retrieval or clip.label is not None


def _one_each(clips: tuple[Clip, ...]) -> list[Clip]:
    """A video that is in two splits is prepared once."""
    return list({clip.target: clip for clip in reversed(clips)}.values())[::-1]


def _run(
    tasks: list[_Task], workers: int, progress: Progress, note: Callable[[Clip, Outcome], None]
) -> Iterator[tuple[str, Outcome]]:
    crashed: Callable[[_Task], Outcome] = lambda _: Outcome(None, "crashes the decoder")  # noqa: E731
    workers = max(1, min(workers, len(tasks)))
    found = in_processes(_do, tasks, workers=workers, crashed=crashed, preload=[__name__])
    for count, (task, outcome) in enumerate(found, start=1):
        note(task.clip, outcome)
        progress(count)
        yield task.clip.target, outcome


def _do(task: _Task) -> Outcome:
    assert task.clip.source is not None
    source = Path(task.clip.source)
    try:
        if task.target is None:
            return Outcome(check_clip(source).num_frames)
        return Outcome(write_clip(source, Path(task.target), task.form).num_frames)
    except VideoError as error:
        return Outcome(None, error.reason)


def _summary(source: Source, found: dict[str, Outcome], *, written: int) -> Prepared:
    ready = dict.fromkeys(source.splits(), 0)
    broken: list[tuple[Clip, str]] = []
    for clip in source.clips:
        outcome = found.get(clip.target)
        if outcome is None:
            continue
        if outcome.num_frames is None:
            broken.append((clip, outcome.reason))
        else:
            ready[clip.split] += 1
    return Prepared(source, ready, tuple(broken), written)


def _state(source: Source, form: Form) -> dict[str, Any]:
    return {"dataset": source.dataset, "form": asdict(form)}


def _check_state(source: Source, folder: Path, form: Form) -> None:
    path, wanted = folder / STATE, _state(source, form)
    if not path.is_file():
        write_json(path, wanted)
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        saved = {key: kept[key] for key in wanted}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged ({error}); choose another DST") from error
    if saved != wanted:
        before = {**saved["form"], "dataset": saved["dataset"]}
        now = {**wanted["form"], "dataset": wanted["dataset"]}
        differing = ", ".join(f"{key}={before[key]} (now {now[key]})" for key in now if before[key] != now[key])
        raise ConfigError(f"{folder} was prepared with {differing}; choose another DST, or the same settings")


def _already(folder: Path, form: Form, clips: list[Clip]) -> dict[str, int]:
    """Frames of the clips that are there, by place. What the journal lost is counted again."""
    frames: dict[str, int] = {}
    with suppress(FileNotFoundError), (folder / JOURNAL).open(encoding="utf-8", errors="replace") as journal:
        for line in journal:
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                frames[entry["clip"]] = int(entry["frames"])
    there = _there(folder, {place(clip, form) for clip in clips})
    found = {name: frames[name] for name in there if name in frames}
    for name in sorted(there - found.keys()):
        with suppress(VideoError):  # not ours, or torn by a power cut: written again
            found[name] = count_frames(folder / name, form)
    return found


def _there(folder: Path, places: set[str]) -> set[str]:
    """Those that exist, by listing each folder once."""
    found: set[str] = set()
    for parent in {os.path.dirname(name) for name in places}:  # noqa: PTH120
        with suppress(FileNotFoundError), os.scandir(folder / parent) as entries:
            found |= places & {f"{parent}/{entry.name}" for entry in entries}
    return found


def _remove_partial(folder: Path, form: Form, tasks: list[_Task]) -> None:
    """What a killed call left half written."""
    for parent in {os.path.dirname(place(task.clip, form)) for task in tasks}:  # noqa: PTH120
        for path in (folder / parent).glob("*.partial"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for task in tasks:  # a folder that could not be counted
        if form.to == "frames" and task.target is not None and Path(task.target).is_dir():
            shutil.rmtree(task.target)


def _write_lists(source: Source, folder: Path, form: Form, found: dict[str, Outcome]) -> list[str]:
    ready = {target: outcome.num_frames for target, outcome in found.items() if outcome.num_frames is not None}
    if not ready:
        raise DataError(f"{folder}: no clip of {source.dataset} is ready")
    if source.retrieval:
        return _write_captions(source, folder, ready)
    written: list[str] = []
    for split in source.splits():
        clips = [clip for clip in source.clips if clip.split == split and clip.target in ready]
        if not clips:
            continue
        if source.dataset == "folder":  # names may hold anything
            rows = [[place(clip, form), source.class_names[clip.label or 0]] for clip in clips]
            name, text = f"{split}.csv", _csv([["path", "label"], *rows])
        else:
            middle = "" if form.to == "videos" else " {}"
            lines = [f"{place(c, form)}{middle.format(ready[c.target])} {c.label}\n" for c in clips]
            name, text = f"{split}.txt", "".join(lines)
        write_bytes(folder / name, text.encode("utf-8", "surrogateescape"))
        written.append(name)
    names = [["id", "name"], *([str(number), name] for number, name in enumerate(source.class_names))]
    write_bytes(folder / "classes.csv", _csv(names).encode())
    return [*written, "classes.csv"]


def _write_captions(source: Source, folder: Path, ready: dict[str, int]) -> list[str]:
    home = folder / CAPTION_FOLDERS[source.dataset]
    home.mkdir(exist_ok=True)
    names = {split: [c.name for c in source.clips if c.split == split and c.target in ready]
             for split in source.splits()}  # fmt: skip
    lists = {f"{split}_list.txt": kept for split, kept in names.items()}
    tables = {"MSRVTT_train.9k.csv": "train", "MSRVTT_train.7k.csv": "train-7k", "MSRVTT_JSFUSION_test.csv": "test"}
    written: list[str] = []
    for file in source.captions:
        content = file.read_bytes()
        if file.name in tables and tables[file.name] in names:
            content = _rows_of(content.decode("utf-8-sig"), set(names[tables[file.name]])).encode()
        if file.name not in lists:
            write_bytes(home / file.name, content)
            written.append(f"{home.name}/{file.name}")
    if source.dataset != "msrvtt":
        for name, kept in lists.items():
            write_bytes(home / name, "".join(f"{clip}\n" for clip in kept).encode())
            written.append(f"{home.name}/{name}")
    return written


def _rows_of(text: str, names: set[str]) -> str:
    """The rows of a table whose `video_id` is one of these, with the header."""
    rows = list(csv.reader(io.StringIO(text)))
    column = [cell.strip() for cell in rows[0]].index("video_id")
    return _csv([rows[0], *(row for row in rows[1:] if row and row[column].strip() in names)])


def _csv(rows: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _write_problems(folder: Path, result: Prepared) -> None:
    path = folder / PROBLEMS
    lines = ["\t".join([p["split"], p["clip"], p["problem"], p.get("path", "")]) for p in problems_of(result)]
    if lines:
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Only one call works in a folder; the system lets go of the lock when a process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another `side4video prepare` is at work there") from None
        yield
