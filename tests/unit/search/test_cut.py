"""Moments cut out of videos: playable, H.264, the right frames, the right length."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from assets.make_assets import ASSETS, BY_NAME, encode, quiet, read_number
from side4video.data.decode import VideoReader
from side4video.errors import InputError, VideoError
from side4video.search.cut import clip_name, cut_clip

NAMES = {"vfr-h264.mp4", "odd-vp9.webm", "h264.ts", "rotated90.mp4"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    assert {asset.name for asset in ASSETS} >= NAMES
    with quiet():
        for name in NAMES:
            encode(folder / name, BY_NAME[name])
    return folder


@pytest.mark.parametrize("name", sorted(NAMES))
def test_frames_and_length(videos: Path, tmp_path: Path, name: str) -> None:
    with VideoReader(videos / name) as source:
        start, end = 0.3, source.timestamps_seconds[20]
        span = source.frame_range(start, end)
        times = source.timestamps_seconds
        shape = source.info.height, source.info.width
    cut_clip(videos / name, start, end, tmp_path / "cut.mp4")
    with VideoReader(tmp_path / "cut.mp4") as cut:
        frames_TCHW = cut.read(range(cut.info.num_frames))
        assert [read_number(frame.numpy()) for frame in frames_TCHW[..., : shape[0], : shape[1]]] == list(span)
        assert cut.info.codec == "h264"
        assert (cut.info.height, cut.info.width) == (shape[0] + shape[0] % 2, shape[1] + shape[1] % 2)
        assert cut.timestamps_seconds == pytest.approx(times[span.start : span.stop] - times[span.start], abs=1e-3)
        assert cut.info.duration_seconds == pytest.approx(end - times[span.start], abs=0.02)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p", "what every player shows"
    assert [entry.name for entry in tmp_path.iterdir()] == ["cut.mp4"]


def test_up_to_the_end_and_beyond(videos: Path, tmp_path: Path) -> None:
    cut_clip(videos / "h264.ts", 1.0, 99.0, tmp_path / "tail.mp4")
    with VideoReader(tmp_path / "tail.mp4") as cut:
        assert cut.info.num_frames == 5
        assert cut.info.duration_seconds == pytest.approx(0.2, abs=0.01)


def test_large_frames_are_cut_in_several_parts(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("side4video.search.cut._CHUNK_BYTES", 1)
    cut_clip(videos / "h264.ts", 0.0, 99.0, tmp_path / "whole.mp4")
    with VideoReader(videos / "h264.ts") as source, VideoReader(tmp_path / "whole.mp4") as cut:
        assert cut.info.num_frames == source.info.num_frames > 12
        numbers = [read_number(frame.numpy()) for frame in cut.read(range(cut.info.num_frames))]
    assert numbers == list(range(len(numbers)))


def test_what_cannot_be_cut(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        cut_clip(tmp_path / "gone.mp4", 0, 1, tmp_path / "cut.mp4")
    with pytest.raises(InputError, match="after the last frame"):
        cut_clip(videos / "h264.ts", 5, 6, tmp_path / "cut.mp4")
    with pytest.raises(OSError, match="No such file"):
        cut_clip(videos / "h264.ts", 0, 1, tmp_path / "no-folder" / "cut.mp4")
    assert not list(tmp_path.iterdir())


def test_names_sort_by_rank_and_say_where() -> None:
    assert clip_name(3, Path("/a/beach.mkv"), 125.04) == "003-beach-2m05.0s.mp4"
