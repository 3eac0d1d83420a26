"""Damage that knows nothing of the format: bits, cuts, copies, and numbers that parsers trip over."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

INTERESTING = (0, 1, 2, 7, 8, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE,
               0xFFFFFFFF)  # fmt: skip


def interesting(rng: random.Random, size: int, order: str) -> bytes:
    """A number of `size` bytes at an edge of some range, or any."""
    value = rng.choice(INTERESTING) if rng.random() < 0.8 else rng.getrandbits(8 * size)
    if rng.random() < 0.1:
        value = (1 << 8 * size) - 1 - value
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "big" if order == "big" else "little")


def flip_bits(rng: random.Random, data: bytearray, first: int = 0, stop: int | None = None) -> None:
    """Flip 1 to 64 bits between two places."""
    stop = len(data) if stop is None else min(stop, len(data))
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        if stop > first:
            data[rng.randrange(first, stop)] ^= 1 << rng.randrange(8)


def flip(rng: random.Random, data: bytes) -> bytes:
    """Flip bits anywhere."""
    changed = bytearray(data)
    flip_bits(rng, changed)
    return bytes(changed)


def flip_head(rng: random.Random, data: bytes) -> bytes:
    """Flip bits near the beginning, where headers are."""
    changed = bytearray(data)
    flip_bits(rng, changed, 0, 600)
    return bytes(changed)


def flip_tail(rng: random.Random, data: bytes) -> bytes:
    """Flip bits near the end, where indexes are."""
    changed = bytearray(data)
    flip_bits(rng, changed, max(0, len(data) - 1500))
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Cut the end off, from nearly nothing to nearly everything."""
    if rng.random() < 0.3:
        return data[: rng.randrange(min(64, len(data) or 1) + 1)]
    return data[: rng.randrange(len(data) + 1)]


def behead(rng: random.Random, data: bytes) -> bytes:
    """Cut the beginning off."""
    return data[rng.randrange(1, max(2, len(data))) :]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """Write zeros, ones or noise over a piece."""
    start = rng.randrange(max(1, len(data)))
    length = rng.choice((1, 4, 16, 188, 512, 2048))
    piece = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return data[:start] + piece + data[start + length :]


def number(rng: random.Random, data: bytes) -> bytes:
    """Write an edge number over 1, 2, 4 or 8 bytes."""
    size = rng.choice((1, 2, 4, 4, 8))
    start = rng.randrange(max(1, len(data) - size + 1))
    return data[:start] + interesting(rng, size, rng.choice(("big", "little"))) + data[start + size :]


def remove(rng: random.Random, data: bytes) -> bytes:
    """Take a piece out."""
    start = rng.randrange(max(1, len(data)))
    return data[:start] + data[start + rng.choice((1, 2, 8, 100, 1000, 4000)) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Put noise, zeros or a copy of a piece in."""
    start, source = rng.randrange(len(data) + 1), rng.randrange(max(1, len(data)))
    length = rng.choice((1, 2, 8, 100, 1000, 4000))
    piece = rng.choice((rng.randbytes(length), bytes(length), data[source : source + length]))
    return data[:start] + piece + data[start:]


def exchange(rng: random.Random, data: bytes) -> bytes:
    """Exchange two pieces of equal length."""
    length = rng.choice((4, 32, 188, 500))
    if len(data) < 2 * length:
        return flip(rng, data)
    first, second = sorted((rng.randrange(len(data) - length + 1), rng.randrange(len(data) - length + 1)))
    if second < first + length:
        return flip(rng, data)
    one, two = data[first : first + length], data[second : second + length]
    return data[:first] + two + data[first + length : second] + one + data[second + length :]


def append(rng: random.Random, data: bytes) -> bytes:
    """Put noise or a copy of the file behind the file."""
    return data + rng.choice((rng.randbytes(rng.randrange(1, 5000)), data, bytes(3000), data[: len(data) // 2]))


PLAIN: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flip, flip_head, flip_tail, truncate, behead, overwrite, number, remove, insert, exchange, append,
)  # fmt: skip


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The head of one file and the tail of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def mutate(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """One to three plain mutations, and their names."""
    names: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        chosen = rng.choice(PLAIN)
        data = chosen(rng, data)
        names.append(chosen.__name__)
    return data, "+".join(names)
