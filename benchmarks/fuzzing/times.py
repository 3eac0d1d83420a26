"""Videos whose packets are whole and whose times are not: zero, negative, huge, doubled, backwards, missing."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import av

from fuzzing.bases import Base

KINDS = ("zero", "negative", "huge", "far", "doubled", "backwards", "shuffled", "missing", "jump", "one huge gap",
         "decoding times gone", "edit list")  # fmt: skip
_TARGETS = (".mp4", ".mov", ".mkv", ".ts", ".avi", ".nut")


def retime(rng: random.Random, base: Base) -> tuple[bytes, str, str] | None:
    """The base in a container of the format's choice with damaged times: bytes, suffix, name; None where refused."""
    kind, suffix = rng.choice(KINDS), rng.choice((base.suffix, rng.choice(_TARGETS)))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / base.name, Path(folder) / f"out{suffix}"
        source.write_bytes(base.data)
        with av.open(str(source)) as old:
            packets = [(p.pts, p.dts) for p in old.demux(old.streams.video[0]) if p.size]
        times = _changed(rng, kind, packets)
        options = {"avoid_negative_ts": "disabled", "use_editlist": rng.choice(("0", "1"))}
        # FFmpeg's writers of files stop the process over some times; its readers are what is on trial
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _write(source, target, times, options if suffix in (".mp4", ".mov") else {})
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1] != 0:
            return None
        return target.read_bytes(), suffix, kind


def _write(source: Path, target: Path, times: list[tuple[int | None, int | None]], options: dict[str, str]) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet, (pts, dts) in zip((p for p in old.demux(stream) if p.size), times, strict=True):
            packet.pts, packet.dts, packet.stream = pts, dts, copy
            new.mux_one(packet)


def _changed(
    rng: random.Random, kind: str, times: list[tuple[int | None, int | None]]
) -> list[tuple[int | None, int | None]]:
    pts = [p if p is not None else i for i, (p, _) in enumerate(times)]
    dts: list[int | None] = [d for _, d in times]
    shown: list[int | None] = list(pts)
    if kind == "zero":
        return [(0, d) for d in dts]
    if kind in ("negative", "edit list"):
        shift = rng.choice((1, 5000, 1 << 20, 1 << 31)) if kind == "negative" else rng.choice(pts)
        return [(p - shift, None if d is None else d - shift) for p, d in zip(pts, dts, strict=True)]
    if kind in ("huge", "far"):
        shift = rng.choice((1 << 31, 1 << 33, 1 << 40) if kind == "huge" else (1 << 52, (1 << 62) - 1))
        return [(p + shift, None if d is None else d + shift) for p, d in zip(pts, dts, strict=True)]
    if kind == "doubled":
        for _ in range(rng.choice((1, 3, 10))):
            shown[rng.randrange(len(shown))] = rng.choice(pts)
    elif kind == "backwards":
        shown = list(reversed(shown))
    elif kind == "shuffled":
        rng.shuffle(shown)
    elif kind == "missing":
        for place in range(len(shown)):
            if rng.random() < 0.5:
                shown[place] = None
    elif kind == "decoding times gone":
        dts = [None] * len(dts)
    else:
        place = rng.randrange(len(shown))
        far = rng.choice((-1, 1)) * rng.choice((100_000, 1 << 31, 1 << 40)) if kind == "jump" else 1 << 36
        for later in range(place, len(shown)):
            value, decoded = shown[later], dts[later]
            shown[later] = None if value is None else value + far
            dts[later] = None if decoded is None else decoded + far
    return list(zip(shown, dts, strict=True))
