"""Damage that knows the container: boxes of mp4 and mov, elements of mkv, chunks of avi, packets of MPEG-TS."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fuzzing.bytes_mutations import flip, interesting, mutate

_BOXES = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex", b"dinf"))
_FIELDS = (b"elst", b"stts", b"ctts", b"stsz", b"stco", b"co64", b"stsc", b"stss", b"tkhd", b"mvhd", b"mdhd", b"stsd",
           b"hdlr", b"trun", b"tfhd", b"tfdt", b"trex", b"vmhd", b"dref")  # fmt: skip
_EBML_MASTERS = frozenset((0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675, 0xA0, 0x1C53BB6B, 0xBB, 0xB7))


@dataclass(frozen=True)
class Piece:
    """A box, an element or a chunk: where it starts, where its content starts, where it ends."""

    kind: bytes
    start: int
    content: int
    end: int
    size_bytes: tuple[int, int]
    """Where its size is written."""


def structured(rng: random.Random, data: bytes, suffix: str) -> tuple[bytes, str]:
    """One to three changes that respect the format of a file with this suffix, and their names."""
    change = {".mp4": mp4, ".mov": mp4, ".mkv": matroska, ".webm": matroska, ".avi": avi, ".ts": transport}.get(suffix)
    if change is None:
        return mutate(rng, data)
    names: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        data, name = change(rng, data)
        names.append(name)
    return data, "+".join(names)


def mp4(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A box gets another size, name, place or number, or is gone or twice there."""
    pieces = list(_boxes(data, 0, len(data)))
    if not pieces:
        return flip(rng, data), "flip"
    kind = rng.choice(("field", "field", "field", "size", "name", "remove", "double", "swap", "nest", "size64"))
    named = [piece for piece in pieces if piece.kind in _FIELDS]
    piece = rng.choice(named if kind == "field" and named else pieces)
    label = piece.kind.decode("latin-1")
    start, content, end = piece.start, piece.content, piece.end
    if kind == "field":
        place = content + 4 * rng.randrange(max(1, (end - content) // 4))
        return data[:place] + interesting(rng, 4, "big") + data[place + 4 :], f"{label} number"
    if kind == "size":
        return data[:start] + interesting(rng, 4, "big") + data[start + 4 :], f"{label} size"
    if kind == "name":
        other = rng.choice((b"free", b"moov", b"trak", b"mdat", rng.randbytes(4)))
        return data[: start + 4] + other + data[start + 8 :], f"{label} renamed"
    if kind == "remove":
        return data[:start] + data[end:], f"{label} removed"
    if kind == "double":
        return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:], f"{label} repeated"
    if kind == "swap":
        other = rng.choice(pieces)
        if other.start >= end:
            moved = data[other.start : other.end] + data[end : other.start] + data[start:end]
            return data[:start] + moved + data[other.end :], f"{label} exchanged"
        return flip(rng, data), "flip"
    if kind == "nest":
        depth = rng.choice((10, 1000, 20000))
        deep = b"".join(struct.pack(">I4s", 8 * (depth - level), b"moov") for level in range(depth))
        return data[:start] + deep + data[start:], "deep nesting"
    return data[:start] + b"\0\0\0\1" + data[start + 4 : start + 8] + interesting(rng, 8, "big") + data[content:], (
        f"{label} 64-bit size"
    )


def _boxes(data: bytes, start: int, stop: int, depth: int = 0) -> Iterator[Piece]:
    while start + 8 <= stop:
        size, kind, content = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], start + 8
        if size == 1:
            size, content = int.from_bytes(data[start + 8 : start + 16], "big"), start + 16
        if size < 8 or start + size > stop:
            return
        yield Piece(kind, start, content, start + size, (start, start + 4))
        if kind in _BOXES and depth < 12:
            yield from _boxes(data, content, start + size, depth + 1)
        start += size


def matroska(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """An element gets another size, name or number, or is gone or twice there."""
    pieces = list(_elements(data, 0, len(data)))
    if not pieces:
        return flip(rng, data), "flip"
    kind = rng.choice(("number", "number", "number", "size", "name", "remove", "double"))
    small = [p for p in pieces if 0 < p.end - p.content <= 8 and int.from_bytes(p.kind, "big") not in _EBML_MASTERS]
    piece = rng.choice(small if kind == "number" and small else pieces)
    label = piece.kind.hex()
    if kind == "number":
        value = interesting(rng, piece.end - piece.content, "big")
        return data[: piece.content] + value + data[piece.end :], f"{label} number"
    if kind == "size":
        first, stop = piece.size_bytes
        length = stop - first
        size = interesting(rng, length, "big") if length > 1 else bytes([rng.randrange(256)])
        marked = bytes([(size[0] & ((1 << (8 - length)) - 1)) | (1 << (8 - length))]) + size[1:]
        return data[:first] + marked + data[stop:], f"{label} size"
    if kind == "name":
        return data[: piece.start] + rng.randbytes(len(piece.kind)) + data[piece.size_bytes[0] :], f"{label} renamed"
    if kind == "remove":
        return data[: piece.start] + data[piece.end :], f"{label} removed"
    return data[: piece.end] + data[piece.start : piece.end] * rng.choice((1, 2, 50)) + data[piece.end :], (
        f"{label} repeated"
    )


def _elements(data: bytes, start: int, stop: int, depth: int = 0) -> Iterator[Piece]:
    while start < stop:
        name_length = 9 - data[start].bit_length() if data[start] else 9
        if name_length > 4 or start + name_length >= stop:
            return
        at = start + name_length
        size_length = 9 - data[at].bit_length() if data[at] else 9
        if size_length > 8 or at + size_length > stop:
            return
        first = data[at] & ((1 << (8 - size_length)) - 1)
        size = int.from_bytes(bytes([first]) + data[at + 1 : at + size_length], "big")
        content = at + size_length
        end = stop if size == (1 << 7 * size_length) - 1 else min(stop, content + size)
        name = data[start:at]
        yield Piece(name, start, content, end, (at, content))
        if int.from_bytes(name, "big") in _EBML_MASTERS and depth < 8:
            yield from _elements(data, content, end, depth + 1)
        start = max(end, content)


def avi(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A chunk gets another size, name or number, or is gone or twice there."""
    pieces = list(_chunks(data, 0, len(data)))
    if not pieces:
        return flip(rng, data), "flip"
    kind = rng.choice(("number", "number", "number", "size", "name", "remove", "double"))
    headers = [p for p in pieces if p.kind in (b"avih", b"strh", b"strf", b"idx1", b"indx", b"vprp", b"dmlh")]
    piece = rng.choice(headers if kind == "number" and headers else pieces)
    label = piece.kind.decode("latin-1")
    if kind == "number":
        place = piece.content + 4 * rng.randrange(max(1, (piece.end - piece.content) // 4))
        return data[:place] + interesting(rng, 4, "little") + data[place + 4 :], f"{label} number"
    if kind == "size":
        first, stop = piece.size_bytes
        return data[:first] + interesting(rng, 4, "little") + data[stop:], f"{label} size"
    if kind == "name":
        return data[: piece.start] + rng.choice((b"JUNK", b"LIST", b"01dc", rng.randbytes(4))) + data[
            piece.start + 4 :
        ], f"{label} renamed"
    if kind == "remove":
        return data[: piece.start] + data[piece.end :], f"{label} removed"
    return data[: piece.end] + data[piece.start : piece.end] * rng.choice((1, 2, 50)) + data[piece.end :], (
        f"{label} repeated"
    )


def _chunks(data: bytes, start: int, stop: int, depth: int = 0) -> Iterator[Piece]:
    while start + 8 <= stop:
        kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        end = min(stop, start + 8 + size + size % 2)
        yield Piece(kind, start, start + 8, end, (start + 4, start + 8))
        if kind in (b"RIFF", b"LIST") and depth < 6:
            yield from _chunks(data, start + 12, end, depth + 1)
        start = end


def transport(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A packet of 188 bytes is gone, twice there, elsewhere, of another stream, or has another clock."""
    count = len(data) // 188
    if count < 2:
        return flip(rng, data), "flip"
    number = rng.randrange(count)
    packet = bytearray(data[188 * number : 188 * number + 188])
    before, after = data[: 188 * number], data[188 * number + 188 :]
    kind = rng.choice(("remove", "double", "move", "pid", "counter", "clock", "flags", "table", "shift"))
    if kind == "remove":
        return before + after[188 * rng.choice((0, 0, 1, 5)) :], "packets removed"
    if kind == "double":
        return before + bytes(packet) * rng.choice((2, 3, 100)) + after, "packet repeated"
    if kind == "move":
        return before + after + bytes(packet), "packet moved"
    if kind == "pid":
        packet[1:3] = rng.choice((b"\x00\x00", b"\x1f\xff", rng.randbytes(2)))
    elif kind == "counter":
        packet[3] ^= rng.randrange(16)
    elif kind == "clock":
        starts = [n for n in range(count) if data[188 * n + 4 : 188 * n + 188].find(b"\0\0\1\xe0") >= 0]
        if starts:
            number = rng.choice(starts)
            packet = bytearray(data[188 * number : 188 * number + 188])
            before, after = data[: 188 * number], data[188 * number + 188 :]
            at = packet.find(b"\0\0\1\xe0")
            stamp = interesting(rng, 5, "big")
            packet[at + 9 : at + 14] = bytes([packet[at + 9] & 0xF1 | stamp[0] & 0x0E]) + stamp[1:]
    elif kind == "flags":
        packet[3] ^= rng.choice((0x10, 0x20, 0x40, 0x80))
    elif kind == "table":
        number = rng.randrange(min(4, count))
        packet = bytearray(data[188 * number : 188 * number + 188])
        before, after = data[: 188 * number], data[188 * number + 188 :]
        packet[4 + rng.randrange(60)] = rng.randrange(256)
    else:
        return before + rng.randbytes(rng.randrange(1, 188)) + bytes(packet) + after, "noise between packets"
    return before + bytes(packet[:188]) + after, f"packet {kind}"
