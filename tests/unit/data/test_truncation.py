"""Is a missing tail told from the headers alone, and never seen where nothing is missing?"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from assets.make_assets import ASSETS
from side4video.data.truncation import ends_inside_packet, missing_bytes

Video = Callable[[str], Path]


@pytest.mark.parametrize("name", [asset.name for asset in ASSETS])
def test_whole_files_lack_nothing(video: Video, name: str) -> None:
    assert missing_bytes(video(name)) == 0
    assert ends_inside_packet(video(name)) is False or not name.endswith(".ts")


@pytest.mark.parametrize("name", ["h264.mp4", "front-index.mp4", "hevc.mov", "h264.mkv", "vp9.webm", "sound.mkv"])
@pytest.mark.parametrize("cut", [1, 77])
def test_what_is_cut_is_counted(video: Video, tmp_path: Path, name: str, cut: int) -> None:
    path = tmp_path / name
    path.write_bytes(video(name).read_bytes()[:-cut])
    assert missing_bytes(path) == cut


def test_avi_counts_to_the_end_of_its_frames(video: Video, tmp_path: Path) -> None:
    data, path = video("mpeg4.avi").read_bytes(), tmp_path / "v.avi"
    at = data.index(b"movi") - 4
    end = at + 4 + struct.unpack("<I", data[at : at + 4])[0]
    path.write_bytes(data[: end - 9])
    assert missing_bytes(path) == 9
    path.write_bytes(data[:end])  # only the index after them is lost
    assert missing_bytes(path) == 0


def box(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I", len(body) + 8 if size is None else size) + kind + body


FTYP = box(b"ftyp", b"isom0000")


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (FTYP + box(b"mdat", b"12345", 0), 0),  # to the end of the file
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 26) + b"1234567890", 0),  # 64-bit length
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 30) + b"1234567890", 4),
        (FTYP + box(b"moov", b"1234", 20), 8),
        (FTYP + box(b"free", b"1234", 20), 0),  # holds no frames
        (FTYP + box(b"mdat", b"1234", 5), 0),  # no box can be so small: damaged, not cut
        (FTYP + b"\x00\x00", 0),
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x85abc", 2),
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xffabc", 0),  # a live recording
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x00", 0),
        (b"\x1a\x45\xdf\xa3", 0),
        (b"RIFF\x00\x00\x00\x00AVI ", 0),
        (b"short", 0),
    ],
)
def test_headers_by_hand(tmp_path: Path, data: bytes, missing: int) -> None:
    path = tmp_path / "v"
    path.write_bytes(data)
    assert missing_bytes(path) == missing
