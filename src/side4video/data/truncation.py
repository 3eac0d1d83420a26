"""Whether a video file ends before its own headers say it does; from a few bytes, without FFmpeg.

FFmpeg reads what is there of a file whose download or recording was cut off, and says nothing. mp4/mov, mkv/webm and
avi state the length of what holds the frames, so a missing tail can be told. MPEG-TS and raw streams state none;
of MPEG-TS at least a cut inside a packet shows.

Sources: ISO/IEC 14496-12 "Object Structure"; RFC 9559 "Segment", RFC 8794 "Element Data Size"; the RIFF layout of AVI.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_HOLDS_FRAMES = frozenset({b"mdat", b"moov", b"moof"})
# length of a packet, and where in it the byte stands that starts each
_TS_PACKETS, _TS_SYNC = ((188, 0), (192, 4), (204, 0)), 0x47
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks; 0 where nothing is missing or the format does not tell."""
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _mp4_end(file, length)
        elif head[:4] == _EBML:
            end = _matroska_end(file)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            end = _avi_end(file)
        else:
            end = 0
    return max(0, end - length)


def ends_inside_packet(path: Path) -> bool:
    """Whether an MPEG-TS file ends inside one of its packets (of 188, 192 or 204 bytes), so that its last frame is cut.

    A cut between two packets cannot be told.
    """
    with path.open("rb") as file:
        head = file.read(2 * max(size for size, _ in _TS_PACKETS))
    for size, sync in _TS_PACKETS:
        if len(head) > sync + size and head[sync] == head[sync + size] == _TS_SYNC:
            return path.stat().st_size % size != 0
    return False


def _mp4_end(file: BinaryIO, length: int) -> int:
    start = end = 0
    while start + 8 <= length:
        file.seek(start)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: to the end of the file; else no box
            return end
        start += size
        if kind in _HOLDS_FRAMES:
            end = start
    return end


def _matroska_end(file: BinaryIO) -> int:
    file.seek(4)
    size = _element_size(file)
    if size is None:
        return 0
    file.seek(size, 1)
    if file.read(4) != _SEGMENT:
        return 0
    size = _element_size(file)
    return 0 if size is None else file.tell() + size


def _element_size(file: BinaryIO) -> int | None:
    # the number of leading zero bits is the number of further bytes; all ones: unknown
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _avi_end(file: BinaryIO) -> int:
    start = 12
    while True:
        file.seek(start)
        header = file.read(12)
        if len(header) < 12:
            return 0
        size = struct.unpack("<I", header[4:8])[0]
        if header[:4] == b"LIST" and header[8:12] == b"movi":
            return start + 8 + size
        start += 8 + size + size % 2
