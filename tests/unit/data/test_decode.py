"""Is every frame of every container, codec and oddity the one asked for, bit for bit?"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.make_assets import ASSETS, BY_NAME, CODECS, CONTAINERS, REFUSED, Asset, encode, read_number
from side4video.data import decode as decode_module
from side4video.data.decode import VideoReader, open_video, probe_video
from side4video.data.frame_folder import FrameFolderReader
from side4video.data.pixels import RgbConverter, orientation, turn
from side4video.errors import InputError, VideoError

Video = Callable[[str], Path]
NAMES = [asset.name for asset in ASSETS]
# one of each way to the frames: time stamps, codec rules, decoding once; closed and open groups; seekable or not
KINDS = ["h264.mp4", "opengop-h264.mkv", "opengop-h264.avi", "mpeg4.avi", "opengop-hevc.ts", "vp9.webm", "av1.mkv"]
KINDS += ["intrarefresh.mkv"]


def frames_in_sequence(path: Path) -> list[np.ndarray]:
    """The obvious way: decode everything from the beginning, in order."""
    convert = RgbConverter()
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = list(container.decode(video=0))
    size = frames[0].width, frames[0].height
    return [turn(convert(frame, *size), orientation(frames[0])).transpose(2, 0, 1).copy() for frame in frames]


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_is_the_one_asked_for(video: Video, name: str) -> None:
    asset, expected = BY_NAME[name], frames_in_sequence(video(name))
    with VideoReader(video(name)) as reader:
        assert reader.info.num_frames == len(expected) == asset.num_frames == len(reader.timestamps_seconds)
        assert (reader.info.width, reader.info.height) == (asset.width, asset.height)
        together = reader.read(range(asset.num_frames))
        assert together.dtype == torch.uint8
        assert together.shape == (asset.num_frames, 3, asset.height, asset.width)
        order = random.Random(name).sample(range(asset.num_frames), asset.num_frames)
        for number in order:
            frame = reader.read([number])[0].numpy()
            assert read_number(frame) == number
            np.testing.assert_array_equal(frame, expected[number])
            np.testing.assert_array_equal(together[number].numpy(), expected[number])


@pytest.mark.parametrize("name", NAMES)
def test_without_packets_in_memory_the_frames_are_the_same(video: Video, name: str) -> None:
    with VideoReader(video(name)) as reader, VideoReader(video(name), max_held_bytes=0) as seeking:
        total = reader.info.num_frames
        assert seeking.info == reader.info
        for number in random.Random(name).sample(range(total), min(8, total)):
            assert torch.equal(seeking.read([number]), reader.read([number]))


def test_long_files_are_read_by_seeking_where_that_is_safe(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = decode_module.packets_from.__globals__["open_container"]
    monkeypatch.setitem(
        decode_module.packets_from.__globals__, "open_container", lambda path: opened.append(str(path)) or real(path)
    )
    for name, again in (("h264.mp4", 0), ("h264.mkv", 0), ("h264.ts", 1)):
        with VideoReader(video(name), max_held_bytes=0) as reader:
            opened.clear()
            assert read_number(reader.read([25])[0].numpy()) == 25
            assert len(opened) == again, name


@pytest.mark.parametrize(("codec", "container"), sorted(REFUSED))
def test_pairs_left_out_of_the_catalogue_cannot_be_had(tmp_path: Path, codec: str, container: str) -> None:
    path = tmp_path / f"{codec}.{container}"
    try:
        encode(path, Asset(path.name, codec, num_frames=3))
    except (ValueError, av.error.FFmpegError):
        return
    with pytest.raises(VideoError, match="no video stream"):  # FFmpeg writes it and cannot read it back
        VideoReader(path)


def test_every_other_pair_is_in_the_catalogue() -> None:
    pairs = {(codec, container) for codec in CODECS for container in CONTAINERS} - REFUSED
    assert {f"{codec}.{container}" for codec, container in pairs} <= set(NAMES)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("name", KINDS)
def test_any_list_of_numbers(video: Video, name: str, data: st.DataObject) -> None:
    expected = EXPECTED.setdefault(name, np.stack(frames_in_sequence(video(name))))
    with VideoReader(video(name)) as reader:
        for _ in range(2):  # what was read before must not matter
            numbers = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=9))
            np.testing.assert_array_equal(reader.read(numbers).numpy(), expected[numbers])


EXPECTED: dict[str, np.ndarray] = {}


def test_neighbouring_pairs_across_open_groups(video: Video) -> None:
    # a frame shown before a key frame and decoded after it needs the group before, whatever else is asked for
    for name in ("opengop-h264.mp4", "opengop-hevc.mkv", "mpeg2.ts"):
        with VideoReader(video(name)) as reader:
            for number in range(1, reader.info.num_frames):
                frames = reader.read([number, number - 1]).numpy()
                assert [read_number(frame) for frame in frames] == [number, number - 1]


def test_packets_are_decoded_once_and_only_from_the_key_frame_before(
    video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    real = decode_module.packets_from

    def spy(*args: object, **kwargs: object) -> object:
        for ordinal, packet in real(*args, **kwargs):  # type: ignore[arg-type]
            fed.append(ordinal)
            yield ordinal, packet

    monkeypatch.setattr(decode_module, "packets_from", spy)
    with VideoReader(video("h264.mp4")) as reader:  # key frames at 0, 12, 24
        fed.clear()
        reader.read([26, 2, 26, 3])
        assert max(fed.count(ordinal) for ordinal in fed) == 1
        assert not any(8 < ordinal < 24 for ordinal in fed)
        assert {0, 24} <= set(fed)


def test_only_needed_frames_are_converted(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[object] = []
    real = RgbConverter.__call__
    monkeypatch.setattr(RgbConverter, "__call__", lambda self, *a: converted.append(a) or real(self, *a))
    with VideoReader(video("onegop.mp4")) as reader:
        converted.clear()
        reader.read([50, 7, 50])
    assert len(converted) == 2


@pytest.mark.parametrize("name", [a.name for a in ASSETS if a.ticks])
def test_times_of_frames_come_from_the_file(video: Video, name: str) -> None:
    asset = BY_NAME[name]
    info, expected = probe_video(video(name)), (np.array(asset.ticks) - asset.ticks[0]) / 1000
    with VideoReader(video(name)) as reader:
        np.testing.assert_allclose(reader.timestamps_seconds, expected, atol=1e-3)
        assert reader.frame_range(0.3, 0.9) == range(
            int(np.searchsorted(expected, 0.299)), int(np.searchsorted(expected, 0.899))
        )
    assert info.duration_seconds == pytest.approx(expected[-1] + 0.1, abs=0.11)
    assert info.average_fps == pytest.approx(asset.num_frames / info.duration_seconds)


@pytest.mark.parametrize("name", [a.name for a in ASSETS if not a.ticks and a.num_frames > 1])
def test_times_of_a_steady_video(video: Video, name: str) -> None:
    with VideoReader(video(name)) as reader:
        np.testing.assert_allclose(reader.timestamps_seconds, np.arange(reader.info.num_frames) / 25, atol=1e-3)
        assert reader.info.average_fps == pytest.approx(25, rel=0.02)
        assert reader.frame_range() == range(reader.info.num_frames)


def test_description(video: Video) -> None:
    info = probe_video(video("rotated90.mp4"))
    assert (info.codec, info.container, info.rotation, info.num_frames) == ("h264", "mov", 90, 30)
    assert (info.width, info.height) == (96, 72)
    assert info.duration_seconds == pytest.approx(1.2)
    assert info.path == str(video("rotated90.mp4"))
    assert probe_video(video("av1.mkv")).codec == "av1"


@pytest.mark.parametrize("numbers", [[30], [-1], [0, 31], [1.0], ["2"], [None]])
def test_numbers_that_are_not_frames(video: Video, numbers: list[int]) -> None:
    with VideoReader(video("h264.mp4")) as reader, pytest.raises(InputError, match=r"frame number"):
        reader.read(numbers)


def test_no_numbers_no_frames(video: Video) -> None:
    with VideoReader(video("h264.mp4")) as reader:
        assert reader.read([]).shape == (0, 3, 72, 96)
        assert reader.read(np.array([3, 4])).shape == (2, 3, 72, 96)


def test_open_video_chooses_the_reader(video: Video, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (20, 10)).save(tmp_path / "00001.jpg")
    with open_video(tmp_path) as reader:
        assert isinstance(reader, FrameFolderReader)
    with open_video(video("h264.mp4"), backend="auto") as reader:
        assert reader.info.num_frames == 30
    with pytest.raises(InputError, match=r"backend must be .* got 'opencv'"):
        open_video(video("h264.mp4"), backend="opencv")  # type: ignore[arg-type]
