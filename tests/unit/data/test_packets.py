"""Does the packet table find the order of display where time stamps do not tell it?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.make_assets import (
    Asset,
    cut_by_edit_list,
    encode,
    hide_vp8_frame,
    insert_placeholder,
    pack_bframes,
    read_number,
    remux,
)
from side4video.data import packets as packets_module
from side4video.data.containers import open_container, video_stream
from side4video.data.decode import VideoReader
from side4video.data.packets import PacketTable, _after_seek, _is_hidden, _vop_order, read_table, timestamps

Video = Callable[[str], Path]


def numbers_read(path: Path, **limits: int) -> list[int]:
    """The number in each frame, each read on its own, last first."""
    with VideoReader(path, **limits) as reader:
        total = reader.info.num_frames
        assert len(reader.timestamps_seconds) == total
        assert (np.diff(reader.timestamps_seconds) >= 0).all()
        found = [read_number(reader.read([number])[0].numpy()) for number in reversed(range(total))]
    assert len(frames_in_sequence(path)) >= total  # FFmpeg shows more only where they are damaged
    return found[::-1]


def frames_in_sequence(path: Path) -> list[av.VideoFrame]:
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):  # before the first key frame
                frames += packet.decode()
    return frames


@pytest.mark.parametrize(("name", "hidden"), [("h264.mp4", 7), ("hevc.mp4", 17), ("mpeg4.mp4", 4), ("vp9.mp4", 13)])
@pytest.mark.parametrize("held", [0, 1 << 26])
def test_edit_lists_hide_frames(video: Video, tmp_path: Path, name: str, hidden: int, held: int) -> None:
    cut_by_edit_list(video(name), tmp_path / name, hidden)
    assert numbers_read(tmp_path / name, max_held_bytes=held) == list(range(hidden, 30))


@pytest.mark.parametrize("held", [0, 1 << 26])
def test_packed_bframes_in_avi_come_apart(tmp_path: Path, held: int) -> None:
    encode(tmp_path / "plain.avi", Asset("plain.avi", "mpeg4", {"bf": "1", "b_strategy": "0"}))
    pack_bframes(tmp_path / "plain.avi", tmp_path / "packed.avi")
    with av.open(str(tmp_path / "packed.avi")) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.size]
    assert min(sizes) < 10, "no placeholder, so nothing was packed"
    assert numbers_read(tmp_path / "packed.avi", max_held_bytes=held) == list(range(30))


def test_packed_bframes_need_no_decoding_for_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "plain.avi", Asset("plain.avi", "mpeg4", {"bf": "1", "b_strategy": "0"}))
    pack_bframes(tmp_path / "plain.avi", tmp_path / "packed.avi")
    monkeypatch.setattr(packets_module, "_order_by_decoding", lambda *_: pytest.fail("decoded the whole stream"))
    for name in ("plain.avi", "packed.avi"):
        with VideoReader(tmp_path / name) as reader:
            np.testing.assert_allclose(reader.timestamps_seconds, np.arange(30) / 25, atol=1e-6)


@pytest.mark.parametrize("container", ["mkv", "mp4", "ts"])
def test_repeated_time_stamps(video: Video, tmp_path: Path, container: str) -> None:
    latest: list[int] = []

    def repeat(ordinal: int, packet: av.Packet) -> bool:
        # a B-frame gets the time of the frame after it, which comes before it in decoding
        if ordinal in (7, 8) and packet.pts < latest[-1]:
            packet.pts = latest[-1]
        latest.append(max([packet.pts, *latest]))
        return True

    path = tmp_path / f"twice.{container}"
    remux(video(f"h264.{container}"), path, repeat)
    with av.open(str(path)) as opened:
        times = [packet.pts for packet in opened.demux(video=0) if packet.size]
    assert len(set(times)) < len(times), "nothing was repeated"
    assert numbers_read(path) == list(range(30))


def test_pictures_in_which_nothing_is_coded_are_no_frames(video: Video, tmp_path: Path) -> None:
    insert_placeholder(video("nobframes.avi"), tmp_path / "v.avi", 7)
    assert numbers_read(tmp_path / "v.avi") == list(range(30))


def test_missing_times_are_not_made_up(video: Video) -> None:
    with open_container(video("h264.avi")) as container:
        stream = container.streams.video[0]
        assert None in {packet.pts for packet in container.demux(stream) if packet.size}


@pytest.mark.parametrize(
    ("name", "dropped", "first"),
    [
        ("h264.ts", 5, 12),
        ("h264.mkv", 5, 12),
        ("opengop-h264.mkv", 6, 10),
        ("opengop-h264.ts", 6, 10),
        ("opengop-hevc.ts", 6, 10),
        ("opengop-hevc.mkv", 6, 10),
        ("mpeg4.mkv", 5, 12),
        ("mpeg4.avi", 5, 12),
        ("vp9.webm", 5, 12),
        ("mpeg2.ts", 5, 12),
        ("nobframes.avi", 5, 13),
    ],
)
def test_streams_cut_before_their_first_key_frame(
    video: Video, tmp_path: Path, name: str, dropped: int, first: int
) -> None:
    remux(video(name), tmp_path / name, lambda ordinal, _: ordinal >= dropped)
    found = numbers_read(tmp_path / name)
    assert found == list(range(found[0], found[-1] + 1))
    assert found[0] == first
    with VideoReader(video(name)) as whole, VideoReader(tmp_path / name) as cut:
        np.testing.assert_array_equal(cut.read([0, 9]).numpy(), whole.read([first, first + 9]).numpy())


def test_leading_frames_that_can_be_decoded_stay(tmp_path: Path) -> None:
    # closed groups whose first pictures in display come after the key frame in decoding, and need only it
    options = {"x265-params": "keyint=12:min-keyint=12:bframes=4:radl=2:no-open-gop=1:scenecut=0:log-level=none"}
    encode(tmp_path / "radl.mkv", Asset("radl.mkv", "hevc", options, num_frames=40))
    with VideoReader(tmp_path / "radl.mkv") as reader:
        second_key = reader._table.starts[1]
        shown_before = sorted(
            i for i in range(second_key + 1, second_key + 6) if reader._table.ranks[i] < reader._table.ranks[second_key]
        )
    assert shown_before, "the encoder made no leading pictures"
    remux(tmp_path / "radl.mkv", tmp_path / "cut.mkv", lambda ordinal, _: ordinal >= second_key)
    found = numbers_read(tmp_path / "cut.mkv")
    assert found == list(range(40 - len(found), 40))
    with VideoReader(tmp_path / "cut.mkv") as reader:
        assert reader._table.frames[0] != reader._table.starts[0]


@pytest.mark.parametrize(("first", "second"), [("h264.ts", "opengop-h264.ts"), ("late.ts", "opengop-h264.ts")])
def test_recordings_joined_end_to_end(video: Video, tmp_path: Path, first: str, second: str) -> None:
    joined = tmp_path / "joined.ts"
    joined.write_bytes(video(first).read_bytes() + video(second).read_bytes())
    assert numbers_read(joined) == [*range(30), *range(44)]
    with VideoReader(joined) as reader:
        np.testing.assert_allclose(np.diff(reader.timestamps_seconds), 0.04, atol=1e-3)


def test_recordings_whose_times_interleave(video: Video, tmp_path: Path) -> None:
    def later(_: int, packet: av.Packet) -> bool:
        packet.pts, packet.dts = packet.pts + 48600, packet.dts + 48600  # 0.54 s, between the frames of the first
        return True

    remux(video("opengop-h264.ts"), tmp_path / "later.ts", later)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(video("h264.ts").read_bytes() + (tmp_path / "later.ts").read_bytes())
    assert numbers_read(joined) == [*range(30), *range(44)]


def test_a_change_of_size_is_scaled_to_the_first_frame(video: Video, tmp_path: Path) -> None:
    encode(tmp_path / "big.ts", Asset("big.ts", "h264", width=128, height=96))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(video("h264.ts").read_bytes() + (tmp_path / "big.ts").read_bytes())
    assert numbers_read(joined) == [*range(30), *range(30)]


def test_vp8_packets_that_show_nothing(video: Video, tmp_path: Path) -> None:
    hide_vp8_frame(video("vp8.webm"), tmp_path / "hidden.webm", 5)
    assert numbers_read(tmp_path / "hidden.webm") == [i for i in range(48) if i != 5]


@pytest.mark.parametrize(
    ("data", "hidden"),
    [
        (b"\x82\x49", False),  # profile 0, key frame, shown
        (b"\x84\x00", True),  # profile 0, inter frame, not shown
        (b"\x86\x00", False),  # profile 0, inter frame, shown
        (b"\x88\x00", False),  # shows an existing frame
        (b"\xb0\x00", True),  # profile 3: one bit later
        (b"\xb1\x00", False),
        (b"\xb4\x00", False),
        (b"\x84\x00\xc1", False),  # a superframe ends in a shown frame
        (b"\x00\x00", False),  # not VP9: the decoder may complain
    ],
)
def test_vp9_header(data: bytes, hidden: bool) -> None:
    assert _is_hidden("vp9", av.Packet(data)) is hidden
    assert _is_hidden("h264", av.Packet(data)) is False


@given(st.lists(st.tuples(st.sampled_from("IP"), st.integers(0, 3)), min_size=1, max_size=9))
def test_mpeg4_order_equals_the_encoder_s(groups: list[tuple[str, int]]) -> None:
    # in display order: each group's B-frames come before its reference frame, and after it in decoding
    display = [kind for _, count in groups for kind in "B" * count + "P"]
    decoding: list[int] = []
    waiting: list[int] = []
    for place, kind in enumerate(display):
        if kind == "B":
            waiting.append(place)
        else:
            decoding += [place, *waiting]
            waiting = []
    types = [2 if display[place] == "B" else 1 for place in decoding]
    assert [decoding[ordinal] for ordinal in _vop_order(types)] == list(range(len(display)))


def test_times_without_presentation_times() -> None:
    table = PacketTable(pts=[None] * 3, dts=[10, 20, 40], durations=[10] * 3, frames=[0, 2, 1])
    assert timestamps(table, "mpeg").tolist() == [10, 20, 40]
    table = PacketTable(pts=[None] * 3, dts=[None] * 3, durations=[7] * 3, frames=[0, 2, 1])
    assert timestamps(table, "h264").tolist() == [0, 7, 14]
    table = PacketTable(pts=[5, 15, 2, 12], dts=[5, 15, 2, 12], durations=[10] * 4, frames=[0, 1, 2, 3])
    assert timestamps(table, "mpegts").tolist() == [5, 15, 25, 35]
    # avi knows the times of decoding only, and FFmpeg may pass them on as times of display
    table = PacketTable(pts=[0, 10, 20], dts=[0, 10, 20], durations=[10] * 3, frames=[0, 2, 1])
    assert timestamps(table, "avi").tolist() == [0, 10, 20]


def test_start_is_the_last_key_frame_before_in_both_orders() -> None:
    # decoding: I0 P3 b1 b2 I6 b4 b5 P8 b7; 4 and 5 are shown before the second key frame
    table = PacketTable(ranks=[0, 3, 1, 2, 6, 4, 5, 8, 7], starts=[0, 4])
    assert [table.start_for(ordinal) for ordinal in range(9)] == [0, 0, 0, 0, 4, 0, 0, 4, 4]
    assert table.forget_start(4)
    assert table.start_for(8) == 0
    assert not table.forget_start(0)


def test_a_seek_that_goes_too_far_is_not_trusted(video: Video) -> None:
    class FarSeeker:
        """A container whose index is wrong: it lands behind the place asked for."""

        def __init__(self, container: av.container.InputContainer) -> None:
            self._container = container
            self.format, self.demux = container.format, container.demux

        def seek(self, offset: int, **options: object) -> None:
            self._container.seek(offset + 20 * 512, **options)  # type: ignore[arg-type]

    with open_container(video("h264.mp4")) as container:
        stream = video_stream(container, "v.mp4")
        table = read_table(container, stream, video("h264.mp4"), max_held_bytes=0)
        assert _after_seek(table, container, stream, "v.mp4", 12) is not None
        assert _after_seek(table, FarSeeker(container), stream, "v.mp4", 12) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["onegop.mp4", "onegop-hevc.mkv"])
def test_one_time_that_is_far_off_moves_no_other_frame(video: Video, tmp_path: Path, name: str) -> None:
    def far(ordinal: int, packet: av.Packet) -> bool:
        if ordinal == 10:
            packet.pts += 1 << 30
        return True

    remux(video(name), tmp_path / name, far)
    assert numbers_read(tmp_path / name) == list(range(60))
