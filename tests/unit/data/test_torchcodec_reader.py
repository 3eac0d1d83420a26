"""Is torchcodec held to the frames that were asked for?

torchcodec needs FFmpeg from the system, so these tests do not run it: a stand-in plays a decoder that is right, wrong
or failing, and shows what the adapter does with that. What torchcodec itself returns is compared in
`benchmarks/decode.py`, where it is installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from assets.make_assets import read_number
from side4video.data.decode import VideoReader, open_video
from side4video.data.torchcodec_reader import TorchcodecReader
from side4video.errors import InputError, MissingExtraError, VideoError

Video = Callable[[str], Path]


class StandIn:
    """Gives frames of a marked colour at 25 a second, `late` frames too late; or fails."""

    late = 0
    failure: Exception | None = None
    opened: list[str]

    def __init__(self, path: str, **options: object) -> None:
        assert options == {"seek_mode": "exact", "num_ffmpeg_threads": 1, "dimension_order": "NHWC"}
        self.opened.append(path)

    def get_frames_at(self, numbers: list[int]) -> SimpleNamespace:
        if self.failure is not None:
            raise self.failure
        times = torch.tensor([(number + self.late) / 25 for number in numbers], dtype=torch.float64)
        return SimpleNamespace(data=torch.full((len(numbers), 72, 96, 3), 77, dtype=torch.uint8), pts_seconds=times)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    class Decoder(StandIn):
        opened: list[str] = []  # noqa: RUF012

    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = Decoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    return Decoder


def test_right_frames_are_taken(video: Video, stand_in: type[StandIn]) -> None:
    with open_video(video("h264.mp4"), backend="torchcodec") as reader:
        assert isinstance(reader, TorchcodecReader)
        assert reader.read([3, 9, 3]).shape == (3, 3, 72, 96)
        assert (reader.read([3]) == 77).all()
        assert reader.read([]).shape == (0, 3, 72, 96)
        assert reader.info.num_frames == 30
        assert reader.frame_range(0.2, 0.4) == range(5, 10)
        with pytest.raises(InputError, match="frame number 30"):
            reader.read([30])


@pytest.mark.parametrize("failure", [None, RuntimeError("no more frames left to decode")])
def test_wrong_frames_are_read_again(video: Video, stand_in: type[StandIn], failure: Exception | None) -> None:
    stand_in.late, stand_in.failure = 1, failure
    with open_video(video("intrarefresh.mp4"), backend="auto") as reader:
        assert [read_number(frame) for frame in reader.read([43, 2]).numpy()] == [43, 2]
    assert len(stand_in.opened) == 1


def test_videos_that_start_late_or_are_variable_keep_their_times(video: Video, stand_in: type[StandIn]) -> None:
    with open_video(video("late.mkv"), backend="torchcodec") as reader, VideoReader(video("late.mkv")) as plain:
        assert plain.start_seconds > 0
        assert not (reader.read([4]) == 77).all()  # the stand-in's times start at 0, these do not
        np.testing.assert_array_equal(reader.timestamps_seconds, plain.timestamps_seconds)


@pytest.mark.parametrize("name", ["h264.ts", "h264.avi", "mpeg4.avi"])
def test_formats_where_it_seeks_wrongly_are_not_given_to_it(video: Video, stand_in: type[StandIn], name: str) -> None:
    with open_video(video(name), backend="torchcodec") as reader:
        assert read_number(reader.read([17])[0].numpy()) == 17
    assert stand_in.opened == []


def test_without_it(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(MissingExtraError, match=r"torchcodec is not installed; .* 'side4video\[torchcodec\]'"):
        open_video(video("h264.mp4"), backend="torchcodec")
    with open_video(video("h264.mp4"), backend="auto") as reader:
        assert isinstance(reader, VideoReader)


def test_without_ffmpeg(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise RuntimeError("Could not load libtorchcodec")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(InputError, match="needs FFmpeg's shared libraries"):
        open_video(video("h264.mp4"), backend="torchcodec")
    with open_video(video("h264.mp4"), backend="auto") as reader:
        assert isinstance(reader, VideoReader)


def test_a_broken_video_is_a_video_error_with_any_backend(tmp_path: Path, stand_in: type[StandIn]) -> None:
    (tmp_path / "v.mp4").write_bytes(b"\x01" * 99)
    for backend in ("auto", "torchcodec", "pyav"):
        with pytest.raises(VideoError, match="damaged, truncated or not a video"):
            open_video(tmp_path / "v.mp4", backend=backend)
