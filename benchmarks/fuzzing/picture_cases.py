"""Damaged folders of frames, and what the reader makes of them."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fuzzing import bombs
from fuzzing.bases import PICTURES, Bases
from fuzzing.bytes_mutations import mutate
from fuzzing.outcome import Judged, Stopped, attempt
from fuzzing.video_cases import HOSTILE_NAMES
from side4video.data.decode import open_video
from side4video.data.sequence import FrameSequence

Case = Callable[[random.Random, Path, Bases], tuple[str, Judged]]
_SUFFIXES = ("png", "jpg", "webp", "bmp")


def damaged_picture(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """One picture of a folder is damaged, enormous, or of another kind."""
    suffix, number = rng.choice(_SUFFIXES), rng.randrange(PICTURES)
    frames = _folder(folder / "frames", bases.pictures[suffix], suffix)
    path = frames / f"img_{number + 1:05d}.{suffix}"
    data = path.read_bytes()
    kind = rng.choice(("bytes", "bytes", "bytes", "enormous", "other", "chunk", "mode"))
    if kind == "bytes":
        changed, kind = mutate(rng, data)
    elif kind == "enormous":
        changed = bombs.picture(rng, data, suffix)
    elif kind == "other":
        changed = rng.choice((b"", bases.pictures[rng.choice(_SUFFIXES)][number], bases.videos["h264.mp4"].data))
    elif kind == "chunk":
        changed = _with_text(rng, bases.pictures["png"][number])
    else:
        changed, kind = _in_mode(rng, bases.pictures["png"][number])
    path.write_bytes(changed)
    return f"{suffix}: {kind}", _judge(frames, bases.pictures[suffix], damaged=number, names=[frames, path], rng=rng)


def damaged_folder(rng: random.Random, folder: Path, bases: Bases) -> tuple[str, Judged]:
    """The pictures are whole; their names, their number, or what lies beside them is odd."""
    suffix = rng.choice(_SUFFIXES)
    frames = _folder(folder / rng.choice(("frames", *_FOLDER_NAMES)), bases.pictures[suffix], suffix)
    first = frames / f"img_00001.{suffix}"
    kind = rng.choice(
        ("none", "hole", "zero", "folder", "loop", "pipe", "far", "other", "wide", "only", "name", "device")
    )
    if kind == "hole":
        (frames / f"img_{rng.randrange(1, PICTURES):05d}.{suffix}").unlink()
    elif kind == "zero":
        first.rename(frames / f"img_00000.{suffix}")
    elif kind == "folder":
        first.unlink()
        first.mkdir()
    elif kind == "loop":
        first.unlink()
        first.symlink_to(first.name)
    elif kind == "pipe":
        first.unlink()
        os.mkfifo(first)
    elif kind == "device":
        first.unlink()
        first.symlink_to("/dev/zero")
    elif kind == "far":
        far = "9" * rng.choice((9, 18, 19, 40, 200))
        (frames / f"img_{far}.{suffix}").write_bytes(first.read_bytes())
    elif kind == "other":
        (frames / rng.choice(("notes.txt", "img.png", "12", "img_00003.txt", ".img_00009.png"))).write_bytes(b"?")
    elif kind == "wide":
        (frames / f"img_{PICTURES + 1}.{suffix}").write_bytes(first.read_bytes())
    elif kind == "only":
        for path in frames.iterdir():
            if path != first:
                path.unlink()
    elif kind == "name":
        for number in range(PICTURES):
            old = frames / f"img_{number + 1:05d}.{suffix}"
            old.rename(
                frames / f"{rng.choice(('{}', '{0}', '%d', '[x', 'a}}{b', chr(0x202E)))}{number + 1:05d}.{suffix}"
            )
    names = [frames, *frames.iterdir()]
    return f"{suffix}: {kind}", _judge(frames, bases.pictures[suffix], damaged=None, names=names, rng=rng)


_FOLDER_NAMES = tuple(
    name.format("") for name in HOSTILE_NAMES if name.format("") not in ("", ".", "..") and "/" not in name
)


def _folder(path: Path, pictures: list[bytes], suffix: str) -> Path:
    path.mkdir()
    for number, data in enumerate(pictures):
        (path / f"img_{number + 1:05d}.{suffix}").write_bytes(data)
    return path


def _judge(
    frames: Path, pictures: list[bytes], *, damaged: int | None, names: list[Path], rng: random.Random
) -> Judged:
    """Every frame but the damaged one must be the picture with its number; that one what Pillow makes of its file."""
    counts: dict[str, int] = {}
    try:
        reader = attempt(lambda: open_video(frames), names)
        total = reader.info.num_frames
        places = rng.sample(range(total), min(total, PICTURES))
        for place in places:
            try:
                frame = attempt(lambda place=place: reader.read([place])[0], names)
            except Stopped as stopped:
                if stopped.judged.outcome != "error":
                    raise
                counts["frames_refused"] = counts.get("frames_refused", 0) + 1
                continue
            file = sorted(path for path in frames.iterdir() if str(place + 1) in path.name.lstrip("img_0"))
            stored = pictures[place] if place != damaged and place < len(pictures) else None
            truth = _plain(stored if stored is not None else (file[0].read_bytes() if file else b""))
            if truth is None or not torch.equal(frame, truth):
                return Judged("silent", f"frame {place} is not its file", counts)
            counts["exact"] = counts.get("exact", 0) + 1
        try:
            attempt(lambda: list(FrameSequence(frames)), names)
        except Stopped as stopped:
            if stopped.judged.outcome != "error":
                raise
    except Stopped as stopped:
        stopped.judged.counts = counts
        return stopped.judged
    return Judged("equal" if total == len(pictures) and not counts.get("frames_refused") else "read", "", counts)


def _plain(data: bytes) -> torch.Tensor | None:
    try:
        rgb_HWC = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception:  # noqa: BLE001 - Pillow raises much, and all of it means no picture
        return None
    return torch.from_numpy(rgb_HWC.copy()).permute(2, 0, 1)


def _with_text(rng: random.Random, data: bytes) -> bytes:
    """A PNG with a compressed text or colour profile that becomes a thousand times larger, or another odd chunk."""
    body = zlib.compress(bytes(rng.choice((1000, 70_000_000))))
    kind = rng.choice((b"zTXt", b"iCCP", b"iTXt", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"gAMA", b"IHDR"))
    head = {b"zTXt": b"k\0\0", b"iCCP": b"p\0\0", b"iTXt": b"k\0\1\0\0\0"}.get(kind, b"")
    content = head + body if head else rng.randbytes(rng.randrange(40))
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]


def _in_mode(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """The same picture with a palette, in gray, with alpha, in 16 or 1 bits, or as CMYK, under its old name."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    mode = rng.choice(("P", "L", "LA", "RGBA", "1", "I;16", "CMYK"))
    into = io.BytesIO()
    if mode == "CMYK":
        image.convert("CMYK").save(into, "JPEG")
    elif mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(into, "PNG")
    else:
        image.convert(mode).save(into, "PNG")
    return into.getvalue(), mode


CASES: dict[str, tuple[int, Case]] = {
    "frames: a picture": (6, damaged_picture),
    "frames: a folder": (2, damaged_folder),
}
