"""Timelines: the same numbers as one window at a time, every frame through the backbone once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from side4video.data.decode import open_video
from side4video.errors import CheckpointError, ConfigError, VideoError
from side4video.streaming.scorers import ClassScorer
from side4video.streaming.timeline import TimelineSettings, make_timelines
from unit.backbones.toy import ToyTrunk
from unit.streaming.conftest import alone

MakeScorer = Callable[..., ClassScorer]


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_windows_score_as_each_does_alone(make_scorer: MakeScorer, video: Path, stride: int) -> None:
    scorer = make_scorer()
    (line,) = make_timelines([scorer], video, settings=TimelineSettings(fps=5, stride=stride))
    with open_video(video) as reader:
        frames_TCHW = reader.read(range(0, 41, 2))
    starts = [*range(0, 21 - 8 + 1, stride)]
    starts += [] if starts[-1] == 13 else [13]
    assert line.window_starts_seconds == pytest.approx([start / 5 for start in starts])
    assert line.frame_times_seconds == pytest.approx([number / 5 for number in range(21)])
    assert (line.fps, line.window_seconds) == (5, 8 / 5)
    assert line.duration_seconds == pytest.approx(4.1)
    assert line.labels == ("class 0", "class 1", "class 2")
    expected_WK = torch.stack([alone(scorer, frames_TCHW[start : start + 8]) for start in starts])
    torch.testing.assert_close(line.scores_WK, expected_WK, atol=1e-5, rtol=0)
    for frame in range(21):
        covering = [place for place, start in enumerate(starts) if start <= frame < start + 8]
        torch.testing.assert_close(line.scores_FK[frame], expected_WK[covering].mean(0), atol=1e-5, rtol=0)


def test_models_share_a_pass(make_scorer: MakeScorer, video: Path) -> None:
    first, second = make_scorer(), make_scorer(seed=6, num_frames=5, num_classes=4, taps=(1, 2, 4))
    trunk = first.backbone.trunk
    assert isinstance(trunk, ToyTrunk)
    settings = TimelineSettings(fps=10, stride=2)
    alone_lines = [make_timelines([scorer], video, settings=settings)[0] for scorer in (first, second)]
    trunk.embedded.clear()
    heard: list[float] = []
    lines = make_timelines([second, first], video, settings=settings, progress=heard.append)
    assert sum(trunk.embedded) == 41
    assert [line.model for line in lines] == ["run 6", "run 5"]
    for line, own in zip(lines, reversed(alone_lines), strict=True):
        torch.testing.assert_close(line.scores_WK, own.scores_WK, atol=1e-5, rtol=0)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1.0)


def test_a_video_shorter_than_a_window_is_sampled_faster(make_scorer: MakeScorer, video: Path) -> None:
    (line,) = make_timelines([make_scorer(num_frames=16)], video, settings=TimelineSettings(fps=2))
    assert line.fps == pytest.approx(16 / 4.1)
    assert len(line.frame_times_seconds) == 16
    assert len(line.scores_WK) == 1
    assert line.window_seconds == pytest.approx(4.1)


def test_thumbnails_are_spread_over_the_video(make_scorer: MakeScorer, video: Path) -> None:
    settings = TimelineSettings(fps=10)
    (line,) = make_timelines([make_scorer()], video, settings=settings, thumbnails=6)
    times = [picture.seconds for picture in line.thumbnails]
    assert times == pytest.approx([0.0, 0.8, 1.6, 2.4, 3.2, 4.0])
    assert all(picture.jpeg.startswith(b"\xff\xd8") for picture in line.thumbnails)
    assert make_timelines([make_scorer()], video, settings=settings)[0].thumbnails == ()


def test_broken_weights_and_videos_are_named(make_scorer: MakeScorer, video: Path, tmp_path: Path) -> None:
    scorer = make_scorer()
    with torch.no_grad():
        scorer.model.head.bias[1] = float("nan")
    with pytest.raises(CheckpointError, match=r"run 5: its scores for .*long\.mp4 are no numbers"):
        make_timelines([scorer], video)
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"no\.mp4"):
        make_timelines([make_scorer()], tmp_path / "no.mp4")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fps": 0}, "fps must be above 0 and at most 1000; got 0"),
        ({"fps": float("nan")}, "fps must be above 0"),
        ({"stride": 0}, "stride must be at least 1 frame; got 0"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"min_seconds": -1.0}, "min_seconds must be 0 or more seconds; got -1.0"),
        ({"gap_seconds": float("inf")}, "gap_seconds must be 0 or more seconds; got inf"),
    ],
)
def test_settings_that_are_not_allowed(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TimelineSettings(**values)  # pyright: ignore[reportArgumentType]


def test_a_stride_must_leave_no_frame_out() -> None:
    assert TimelineSettings(stride=8).plan(8).stride == 8
    assert TimelineSettings().plan(8).stride == 2
    assert TimelineSettings().plan(3).stride == 1
    with pytest.raises(ConfigError, match=r"stride must be at most the window's 8 frames.*got 9"):
        TimelineSettings(stride=9).plan(8)
