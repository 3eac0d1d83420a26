"""A whole video in one pass: the reader's own frames and times, sampled by a rule in words, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from assets.make_assets import ASSETS, cut_by_edit_list, read_number
from side4video.data import sequence
from side4video.data.decode import VideoReader
from side4video.data.sequence import FrameSequence
from side4video.errors import InputError, VideoError

Video = Callable[[str], Path]
# every container, hidden frames, odd clocks, fields, rotation; the whole catalogue was compared once by hand
NAMES = (
    *("h264.mp4", "hevc.mkv", "vp9.webm", "mpeg4.avi", "h264.ts", "mpeg2.mpg", "raw.h264", "opengop-h264.mkv"),
    *("vfr-h264.mp4", "late.ts", "rotated90.mp4", "interlaced.mkv", "vp8.webm", "fragmented.mp4", "one-frame.webm"),
)


def everything(frames: FrameSequence) -> tuple[Tensor, list[float]]:
    chunks = list(frames)
    return torch.cat([chunk.frames_TCHW for chunk in chunks]), [time for chunk in chunks for time in chunk.times]


@pytest.mark.parametrize("name", NAMES)
def test_frames_and_times_are_the_readers(video: Video, name: str) -> None:
    assert name in {asset.name for asset in ASSETS}
    frames = FrameSequence(video(name))
    found_TCHW, times = everything(frames)
    with VideoReader(video(name)) as reader:
        assert torch.equal(found_TCHW, reader.read(range(reader.info.num_frames)))
        assert times == pytest.approx(reader.timestamps_seconds.tolist(), abs=1e-6)
        assert frames.duration_seconds == pytest.approx(reader.info.duration_seconds, abs=1e-6)
    assert frames.fraction == 1
    assert frames.sampling_fps is None


def test_an_edit_list_hides_frames(video: Video, tmp_path: Path) -> None:
    cut_by_edit_list(video("h264.mp4"), tmp_path / "cut.mp4", 7)
    found_TCHW, times = everything(FrameSequence(tmp_path / "cut.mp4"))
    assert [read_number(frame.numpy()) for frame in found_TCHW] == list(range(7, 30))
    assert times[0] == 0


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (25, list(range(30))),
        (5, [0, 5, 10, 15, 20, 25]),
        (4, [0, 7, 13, 19, 25]),  # 0, 0.25, 0.5, 0.75, 1 seconds: the frame at or after each
        (0.5, [0]),
        (60, list(range(30))),
    ],
)
def test_the_first_frame_at_or_after_each_grid_point(video: Video, fps: float, expected: list[int]) -> None:
    frames = FrameSequence(video("h264.mp4"), fps=fps)
    found_TCHW, times = everything(frames)
    assert [read_number(frame.numpy()) for frame in found_TCHW] == expected
    assert times == pytest.approx([number / 25 for number in expected])
    assert frames.sampling_fps == fps
    assert frames.duration_seconds == pytest.approx(1.2), "of the video, not of what was taken"


def test_a_short_video_is_sampled_faster(video: Video) -> None:
    frames = FrameSequence(video("h264.mp4"), fps=2, min_frames=6)
    found_TCHW, times = everything(frames)
    assert len(found_TCHW) == len(times) == 6
    assert frames.sampling_fps == pytest.approx(5)
    more = FrameSequence(video("h264.mp4"), fps=2, min_frames=50)
    assert len(everything(more)[1]) == 30, "no frame twice"


def test_chunks_are_bounded(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "MAX_CHUNK_FRAMES", 8)
    assert [len(chunk.times) for chunk in FrameSequence(video("h264.mp4"))] == [8, 8, 8, 6]
    monkeypatch.setattr(sequence, "MAX_CHUNK_BYTES", 5 * 96 * 72 * 3)
    assert [len(chunk.times) for chunk in FrameSequence(video("h264.mp4"))] == [5] * 6


def test_the_file_is_opened_once(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    real = sequence.open_container
    monkeypatch.setattr(sequence, "open_container", lambda path: (opened.append(path), real(path))[1])
    everything(FrameSequence(video("h264.mp4"), fps=3))
    assert len(opened) == 1


def test_a_folder_of_frames(tmp_path: Path) -> None:
    for number in range(1, 41):
        Image.new("RGB", (24, 16), (number, 2, 3)).save(tmp_path / f"img_{number:05d}.png")
    frames = FrameSequence(tmp_path, fps=5)
    found_TCHW, times = everything(frames)
    assert found_TCHW[:, 0, 0, 0].tolist() == [1, 6, 11, 16, 21, 26, 31, 36]
    assert times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4])
    assert (frames.duration_seconds, frames.fraction) == (pytest.approx(1.6), 1)


def test_what_cannot_be_read(video: Video, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello")
    whole = video("h264.mkv").read_bytes()
    damaged = bytearray(video("h264.mp4").read_bytes())
    for place in range(len(damaged) // 3, len(damaged) // 2, 40):
        damaged[place] ^= 0xFF
    (tmp_path / "short.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    for name, reason in (
        ("gone.mp4", "no such file"),
        ("empty.mp4", "empty file"),
        ("text.mp4", "video"),
        ("short.mkv", "truncated"),
        ("damaged.mp4", "decoded|damaged"),
    ):
        with pytest.raises(VideoError, match=reason):
            everything(FrameSequence(tmp_path / name))
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="fps must be a positive number"):
            FrameSequence(video("h264.mp4"), fps=fps)
