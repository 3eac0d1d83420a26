"""Small files whose headers ask for enormous pictures."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from fuzzing.bases import Base, Bases

SIDES = (8191, 8192, 16383, 16384, 16385, 32767, 65535)


class _Bits:
    """Writes single bits and Exp-Golomb numbers."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def put(self, value: int, count: int) -> None:
        self.bits += [value >> place & 1 for place in range(count - 1, -1, -1)]

    def golomb(self, value: int) -> None:
        length = (value + 1).bit_length()
        self.put(value + 1, 2 * length - 1)

    def done(self) -> bytes:
        self.put(1, 1)
        self.bits += [0] * (-len(self.bits) % 8)
        whole = bytes(int("".join(map(str, self.bits[at : at + 8])), 2) for at in range(0, len(self.bits), 8))
        return whole.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")


def h264(rng: random.Random, bases: Bases) -> tuple[bytes, str]:
    """A raw H.264 stream whose first parameter set asks for large pictures, and up to 16 of them kept."""
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    bits = _Bits()
    bits.put(0x67, 8)
    bits.put(rng.choice((66, 77)), 8)
    bits.put(0, 8)
    bits.put(62, 8)
    for value in (0, 0, 2, rng.choice((1, 4, 16))):  # number, frame numbers, order type, pictures kept
        bits.golomb(value)
    bits.put(0, 1)
    bits.golomb((width + 15) // 16 - 1)
    bits.golomb((height + 15) // 16 - 1)
    bits.put(0b1100, 4)  # frames only, direct inference, no cropping, no further information
    data = bases.videos["raw.h264"].data
    second = data.find(b"\0\0\1\x68")
    return b"\0\0\0\1" + bits.done() + b"\0" + data[second:], ".h264"


def vp9(rng: random.Random, bases: Bases) -> tuple[bytes, str]:
    """A key frame of VP9 says that it is large."""
    base = bases.videos[rng.choice(("vp9.webm", "vp9.mkv", "vp9.mp4"))]
    data = bytearray(base.data)
    at = data.find(b"\x49\x83\x42")  # the code by which a key frame is known
    value = int.from_bytes(data[at + 3 : at + 9], "big")
    large = rng.choice(SIDES) << 16 | rng.choice(SIDES)
    value = value >> 44 << 44 | (large & 0xFFFFFFFF) << 12 | value & 0xFFF
    data[at + 3 : at + 9] = value.to_bytes(6, "big")
    return bytes(data), base.suffix


def mpeg4(rng: random.Random, bases: Bases) -> tuple[bytes, str]:
    """The layer header of MPEG-4 says that pictures are large (13 bits a side)."""
    base = bases.videos[rng.choice(("mpeg4.avi", "mpeg4.mp4", "mpeg4.mkv", "mpeg4.ts"))]
    whole = bin(int.from_bytes(b"\1" + base.data, "big"))[3:]
    size = f"1{96:013b}1{72:013b}1"
    large = f"1{rng.choice((8191, 8000, 4096)):013b}1{rng.choice((8191, 8176, 4096)):013b}1"
    return int("1" + whole.replace(size, large), 2).to_bytes(len(base.data) + 1, "big")[1:], base.suffix


def container_header(rng: random.Random, bases: Bases) -> tuple[bytes, str]:
    """Width and height as the container has them, in whatever form."""
    base = bases.videos[rng.choice([name for name in bases.videos if not name.startswith("odd")])]
    data = base.data
    for old in ((96, 72), (96, 96)):
        for form in (">HH", "<HH", "<II"):
            data = data.replace(
                struct.pack(form, *old), struct.pack(form, *(rng.choice((0, 1, *SIDES)) for _ in range(2)))
            )
    # mkv and webm: two elements of one byte
    data = data.replace(b"\xb0\x81\x60", b"\xb0\x81" + bytes([rng.randrange(256)]))
    return data, base.suffix


def motion_jpeg(rng: random.Random, bases: Bases) -> tuple[bytes, str]:
    """Each picture of a motion-JPEG says that it is large."""
    return _start_of_frame(rng, bases.videos["mjpeg.avi"].data), ".avi"


VIDEO: tuple[Callable[[random.Random, Bases], tuple[bytes, str]], ...] = (
    h264, h264, vp9, mpeg4, container_header, container_header, motion_jpeg,
)  # fmt: skip


def picture(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """A still picture that says that it is large."""
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    if suffix == "png":
        header = data[12:16] + struct.pack(">II", width, height) + data[24:29]
        pixels = zlib.compress(bytes(rng.choice((100, 1 << 20))))
        body = struct.pack(">I", len(pixels)) + b"IDAT" + pixels + struct.pack(">I", zlib.crc32(b"IDAT" + pixels))
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + body + b"\0\0\0\0IEND\xaeB`\x82"
    if suffix == "jpg":
        return _start_of_frame(rng, data)
    if suffix == "bmp":
        return data[:18] + struct.pack("<ii", width, rng.choice((height, -height))) + data[26:]
    # lossy WebP: 14 bits a side after the start code of a key frame
    at = data.find(b"\x9d\x01\x2a")
    return data[: at + 3] + struct.pack("<HH", width & 0x3FFF, height & 0x3FFF) + data[at + 7 :]


def base_of(name: str, data: bytes) -> Base:
    """A file of which nothing is expected."""
    return Base(name, data, ())


def _start_of_frame(rng: random.Random, data: bytes) -> bytes:
    changed, at = bytearray(data), 0
    sides = struct.pack(">HH", rng.choice(SIDES), rng.choice(SIDES))
    while (at := changed.find(b"\xff\xc0\x00\x11", at)) >= 0:
        changed[at + 5 : at + 9] = sides
        at += 9
    return bytes(changed)
