"""Damaged videos, and what the readers make of them.

Every frame says its number. Where frames are not the expected ones, a plain decode of the file from its beginning, by
nobody's rules but FFmpeg's, must show the same numbers in the same order, of decoding or of the times that it gives;
and at the same places, but for as many as the two differ in the number of frames (a frame that was cut off or is an
error is none here and may be one there). Then the file says so, or its damage does. Otherwise the outcome is `silent`.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.error
import numpy as np
import torch

from fuzzing import bombs
from fuzzing.bases import LONG_GOP, LONG_HOURS, Base, Bases
from fuzzing.bytes_mutations import mutate, splice
from fuzzing.containers import structured
from fuzzing.outcome import Judged, Stopped, attempt
from fuzzing.times import retime
from side4video.data.decode import VideoReader, open_video
from side4video.data.sequence import FrameSequence

from assets.make_assets import read_number  # isort: skip

LOOKED_AT = 6
MAX_SEQUENCE = 400
MAX_PLAIN = 5000
_CLEAN: dict[str, torch.Tensor] = {}
HOSTILE_NAMES: tuple[str, ...] = (
    "two\nlines{}",
    "quo\"te's{}",
    "\u202egnp.{}",
    "..{}",
    "-rf {}",
    "x" * 240 + "{}",
    "%s%n{}",
    "file:a{}",
    "concat:a|b{}",
    "a\tb{}",
    "\x1b[31mred{}",
    "\u540d\u524d{}",
    "e\u0301{}",
    "\U0001f600{}",
    "$(touch owned){}",
    "`id`{}",
    "a;b{}",
    "a\\b{}",
    "*{}",
    "?{}",
    "[0-9]{}",
    "~{}",
    "%00{}",
    "a\rb{}",
    " {}",
    "a b{}",
    "&{}",
    "#{}",
    "a:b{}",
    "\u2028{}",
    "\u200b{}",
    "{{0}}{}",
    "{{name}}{}",
    "<b>{}",
    "\x7f{}",
    "nul{}",
    os.fsdecode(b"\xff\xfe\x80") + "{}",
    os.fsdecode(b"caf\xe9") + "{}",
    "http:a{}",
    "pipe:0{}",
    "img_00001{}",
    "0{}",
    "\ufeff{}",
)


def plain_damage(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """Bits, cuts, copies and numbers in any file."""
    base = _any(rng, bases)
    if rng.random() < 0.15:
        data, name = splice(rng, base.data, [_any(rng, bases).data]), "splice"
    else:
        data, name = mutate(rng, base.data)
    return f"{base.name}: {name}", judge(_write(folder, base.suffix, data), base, rng)


def container_damage(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """Boxes, elements, chunks and packets."""
    base = _any(rng, bases)
    data, name = structured(rng, base.data, base.suffix)
    return f"{base.name}: {name}", judge(_write(folder, base.suffix, data), base, rng)


def damaged_times(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """Times of display and decoding."""
    while True:
        base = _any(rng, bases)
        made = retime(rng, base)
        if made is not None:
            data, suffix, kind = made
            return f"{base.name} as {suffix}: {kind}", judge(_write(folder, suffix, data), base, rng)


def enormous(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """Headers that ask for enormous pictures."""
    make = rng.choice(bombs.VIDEO)
    data, suffix = make(rng, bases)
    return f"{make.__name__}{suffix}", judge(_write(folder, suffix, data), bombs.base_of("bomb", data), rng)


def hostile_name(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """A whole or a cut file with a name that somebody chose with care."""
    base = bases.videos[rng.choice(("h264.mp4", "vp9.webm", "mpeg4.avi", "h264.ts", "mpeg4.mov", "av1.mkv"))]
    name = rng.choice(HOSTILE_NAMES).format(base.suffix)
    is_whole = rng.random() < 0.6
    data = base.data if is_whole else base.data[: rng.randrange(len(base.data) // 2)]
    path = folder / os.fsencode(name)[:255].decode("utf-8", "surrogateescape")
    path.write_bytes(data)
    judged = judge(path, base, rng)
    if is_whole and judged.outcome != "equal":
        return name, Judged("silent" if judged.outcome == "read" else "crash", f"not as drawn: {judged.detail}")
    return name, judged


def ten_hours(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """Ten hours of video, whole, cut, or said to be so by one small file's header."""
    if not bases.long or rng.random() < 0.5:
        base = bases.videos[rng.choice(("h264.mp4", "h264.mov", "mpeg4.mp4", "vp9.mp4", "mpeg4.avi", "vp9.webm"))]
        data = bytearray(base.data)
        for box, places in ((b"mvhd", (12, 16)), (b"mdhd", (12, 16)), (b"stts", (8, 12)), (b"tkhd", (20, 24))):
            at = data.find(box)
            if at >= 0 and rng.random() < 0.6:
                place = at + 4 + rng.choice(places)
                data[place : place + 4] = rng.choice((36000, 900_000, 36_000_000, 0x7FFFFFFF)).to_bytes(4, "big")
        return f"{base.name}: a header of ten hours", judge(_write(folder, base.suffix, bytes(data)), base, rng)
    slow = [name for name in bases.long if "slow" in name]
    name = rng.choice(slow if rng.random() < 0.7 else sorted(bases.long))
    path = bases.long[name]
    if rng.random() < 0.3:
        data = path.read_bytes()
        path = _write(folder, path.suffix, data[: rng.randrange(len(data))])
        rate = 1 if "slow" in name else 25
        expected = tuple(number % LONG_GOP for number in range(LONG_HOURS * 3600 * rate))
        return f"{name}: cut", judge(path, Base(name, b"", expected), rng)
    return f"{name}: whole", _judge_long(path, rng)


def judge(path: Path, base: Base, rng: random.Random) -> Judged:
    """Read frames by number and in sequence, and compare them with what the file says."""
    counts: dict[str, int] = {}
    try:
        frames = _read_some(path, rng, counts)
        sequence = _read_sequence(path, counts)
    except Stopped as stopped:
        judged = stopped.judged
        judged.counts = counts
        return judged
    outcome, details = "equal", list[str]()
    others: list[tuple[int, int]] = []
    clean = _clean_frames(base)
    for place, frame in frames.items():
        expected = base.expected[place] if place < len(base.expected) else None
        number = _number(frame)
        if number == expected and number is not None:
            same = clean is not None and clean[place].shape == frame.shape and torch.equal(clean[place], frame)
            _count(counts, "exact" if same else "altered")
            outcome = outcome if same else "read"
            continue
        outcome = "read"
        if number is None:
            _count(counts, "unreadable")
            continue
        others.append((place, number))
    total = counts.get("num_frames", 0)
    if others:
        plain = _plain_numbers(path)
        # a plain decode may lose more than we do: then what was drawn tells, in order and without what is missing
        drawn = [list(base.expected)] if len(plain[0]) < total else []
        if any(_in_order(others, numbers, total) for numbers in (*plain, *drawn)):
            counts["other_number_as_plain"] = len(others)
        else:
            details.append(f"{others} of {total}; a plain decode shows {plain[0]}, by times {plain[1]}")
    if sequence is not None and len(sequence) == total:
        _compare(frames, dict(enumerate(sequence)), "differs in sequence", path, counts, details)
    elif sequence is not None:
        _count(counts, "sequence_of_other_length")
    if details:
        return Judged("silent", "; ".join(details[:4]), counts)
    return Judged(outcome if total == len(base.expected) or outcome == "read" else "read", "", counts)


def _read_some(
    path: Path, rng: random.Random, counts: dict[str, int], looked_at: int = LOOKED_AT
) -> dict[int, torch.Tensor]:
    """Some frames, each read on its own and all together; a frame that is an error is left out."""
    reader = attempt(lambda: open_video(path), [path])
    with contextlib.closing(reader):
        total = reader.info.num_frames
        counts["num_frames"] = total
        places = sorted({0, total - 1, *(rng.randrange(total) for _ in range(looked_at - 2))})
        frames: dict[int, torch.Tensor] = {}
        stopped: Stopped | None = None
        for place in rng.sample(places, len(places)):
            try:
                frames[place] = attempt(lambda place=place: reader.read([place])[0], [path])
                _count(counts, "frames_read")
            except Stopped as error:
                if error.judged.outcome != "error":
                    raise
                _count(counts, "frames_refused")
                stopped = error
        if stopped is not None and not frames:
            raise stopped
        if stopped is None:
            together = attempt(lambda: reader.read(places), [path])
            wrong = list[str]()
            _compare(
                frames, dict(zip(places, together, strict=True)), "differs when read together", path, counts, wrong
            )
            if wrong:
                raise Stopped(Judged("silent", "; ".join(wrong)))
        if isinstance(reader, VideoReader) and not (np.diff(reader.timestamps_seconds) >= 0).all():
            raise Stopped(Judged("silent", "times go backwards"))
    return frames


def _read_sequence(path: Path, counts: dict[str, int]) -> list[torch.Tensor] | None:
    """All frames as they come, or None where that is an error."""

    def read() -> list[torch.Tensor]:
        frames: list[torch.Tensor] = []
        for chunk in FrameSequence(path):
            frames += list(chunk.frames_TCHW)
            if len(frames) > MAX_SEQUENCE:
                break
        return frames

    try:
        return attempt(read, [path])
    except Stopped as stopped:
        if stopped.judged.outcome != "error":
            raise
        _count(counts, "sequence_refused")
        return None


def _compare(
    frames: dict[int, torch.Tensor],
    again: dict[int, torch.Tensor],
    what: str,
    path: Path,
    counts: dict[str, int],
    details: list[str],
) -> None:
    """Frames that were read twice. A damaged picture may come out in two ways, since a decoder fills holes with what it
    has; and where the times of a file contradict the order of its pictures, each reader may follow one of them."""
    plain: tuple[list[int | None], list[int | None]] | None = None
    for place, frame in frames.items():
        if torch.equal(frame, again[place]):
            continue
        one, other = _number(frame), _number(again[place])
        if one is None or other is None or one == other:
            _count(counts, "unsteady")
            continue
        plain = plain or _plain_numbers(path)
        if all(any(_in_order([(place, number)], p, counts["num_frames"]) for p in plain) for number in (one, other)):
            _count(counts, "two_orders")
        else:
            details.append(f"frame {place} {what}: {one}, {other}")


def _judge_long(path: Path, rng: random.Random) -> Judged:
    counts: dict[str, int] = {}
    try:
        frames = _read_some(path, rng, counts, looked_at=3)  # each look reads a long MPEG-4 file from its beginning
    except Stopped as stopped:
        return stopped.judged
    rate = 1 if "slow" in path.name else 25
    wrong = [place for place, frame in frames.items() if _number(frame) != place % LONG_GOP]
    if wrong or counts["num_frames"] != LONG_HOURS * 3600 * rate:
        return Judged("silent", f"{counts['num_frames']} frames; wrong: {wrong}", counts)
    chunks = iter(FrameSequence(path))
    try:
        first = attempt(lambda: next(chunks), [path]).frames_TCHW
    except Stopped as stopped:
        return stopped.judged
    if [_number(frame) for frame in first[:LONG_GOP]] != list(range(LONG_GOP)):
        return Judged("silent", "the sequence starts elsewhere", counts)
    return Judged("equal", "", counts)


def _plain_numbers(path: Path) -> tuple[list[int | None], list[int | None]]:
    """What a plain decode from the beginning shows, as frames come, and by their times."""
    shown: list[tuple[float, int | None]] = []
    with contextlib.suppress(av.error.FFmpegError, ValueError, OverflowError), av.open(str(path)) as container:
        for frame in _plain_frames(container):
            picture_HWC = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
            number = _number(torch.from_numpy(picture_HWC).permute(2, 0, 1))
            shown.append((float("inf") if frame.pts is None else frame.pts, number))
            if len(shown) > MAX_PLAIN:
                break
    return [number for _, number in shown], [number for _, number in sorted(shown, key=lambda entry: entry[0])]


def _in_order(others: list[tuple[int, int]], plain: list[int | None], total: int) -> bool:
    """Whether each (place, number) of frames read is in a plain decode, in order and near enough to its place."""
    slack, at = abs(len(plain) - total) + plain.count(None), -1
    for place, number in sorted(others):
        at = next((j for j in range(max(at + 1, place - slack), len(plain)) if plain[j] == number), len(plain))
        if at > min(place + slack, len(plain) - 1):
            return False
    return True


def _plain_frames(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    for packet in container.demux(stream):
        with contextlib.suppress(av.error.FFmpegError):
            yield from packet.decode()


def _number(frame_CHW: torch.Tensor) -> int | None:
    try:
        return read_number(frame_CHW.numpy())
    except (ValueError, IndexError):
        return None


def _clean_frames(base: Base) -> torch.Tensor | None:
    """The undamaged frames, in the process that asks."""
    if not base.expected:
        return None
    if base.name not in _CLEAN:
        path = Path(os.environ["FUZZ_BASES"]) / "videos" / base.name
        with VideoReader(path) as reader:
            _CLEAN[base.name] = reader.read(range(reader.info.num_frames))
    return _CLEAN[base.name]


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _any(rng: random.Random, bases: Bases) -> Base:
    return bases.videos[rng.choice(sorted(bases.videos))]


def _write(folder: Path, suffix: str, data: bytes) -> Path:
    path = folder / f"input{suffix}"
    path.write_bytes(data)
    return path


Case = Callable[[random.Random, Path, Bases], tuple[str, Judged]]
CASES: dict[str, tuple[int, Case]] = {
    "video: bytes": (24, plain_damage),
    "video: container": (22, container_damage),
    "video: times": (8, damaged_times),
    "video: enormous": (3, enormous),
    "video: names": (3, hostile_name),
    "video: ten hours": (1, ten_hours),
}


def warm(bases: Bases) -> None:
    """Read the undamaged frames once, before anything is forked."""
    for base in bases.videos.values():
        _clean_frames(base)
