"""What browsers play as it is, and that everything else is written anew with the times that it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from side4video.app.playback import browser_type, write_playable
from side4video.data.decode import VideoReader
from unit.app.stub import write_clip


@pytest.mark.parametrize(
    ("name", "codec", "media_type"),
    [
        ("a.mp4", "libx264", "video/mp4"),
        ("a.mov", "libx264", "video/mp4"),
        ("a.webm", "libvpx-vp9", "video/webm"),
        ("a.mkv", "libx264", None),
        ("a.avi", "libx264", None),
        ("a.mp4", "mpeg4", None),
        ("a.ts", "libx264", None),
    ],
)
def test_what_browsers_play(tmp_path: Path, name: str, codec: str, media_type: str | None) -> None:
    write_clip(tmp_path / name, codec=codec)
    # the name plays no part: an upload has none
    (tmp_path / name).rename(tmp_path / "upload")
    assert browser_type(tmp_path / "upload") == media_type


def test_a_video_is_written_anew_with_its_times(tmp_path: Path) -> None:
    write_clip(tmp_path / "source.avi", frames=71, size=(50, 34), codec="mpeg4", rate=7)
    shares: list[float] = []
    sizes: list[int] = []
    target = tmp_path / "target.mp4"
    write_playable(tmp_path / "source.avi", target, progress=shares.append, may_grow=sizes.append)
    assert browser_type(target) == "video/mp4"
    with VideoReader(tmp_path / "source.avi") as source, VideoReader(target) as written:
        assert written.info.num_frames == 71
        assert written.timestamps_seconds.tolist() == pytest.approx(source.timestamps_seconds.tolist(), abs=1e-4)
        assert written.info.duration_seconds == pytest.approx(source.info.duration_seconds, abs=1e-3)
        assert (written.info.width, written.info.height) == (50, 34)
        difference = (written.read(range(71)).float() - source.read(range(71)).float()).abs().mean()
        assert difference < 4
    assert shares[-1] == 1
    assert sizes[-1] <= target.stat().st_size


def test_large_fast_and_odd_videos_become_smaller(tmp_path: Path) -> None:
    write_clip(tmp_path / "large.mkv", frames=30, size=(1280, 720), rate=60)
    write_playable(tmp_path / "large.mkv", tmp_path / "out.mp4", progress=lambda _: None, may_grow=lambda _: None)
    with VideoReader(tmp_path / "out.mp4") as written:
        assert (written.info.height, written.info.width) == (480, 854)
        assert written.info.num_frames == 15
        assert written.info.duration_seconds == pytest.approx(0.5, abs=0.02)


def test_work_stops_when_it_is_told_to(tmp_path: Path) -> None:
    write_clip(tmp_path / "source.avi", frames=9, codec="mpeg4")

    def stop(_size: int) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        write_playable(tmp_path / "source.avi", tmp_path / "out.mp4", progress=lambda _: None, may_grow=stop)
