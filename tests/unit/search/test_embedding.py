"""Videos to embedded windows: the numbers of each window alone, its times, and one backbone pass a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from run.small_runs import draw_clip
from side4video.data.caption_dataset import CenterCrop
from side4video.data.decode import VideoReader
from side4video.data.transforms import PixelFormat
from side4video.errors import ConfigError, VideoError
from side4video.search.embedding import VideoEmbedder, WindowSettings, read_ahead
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

CROP = CenterCrop(PixelFormat((64, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bilinear"))
NUM_FRAMES = 23


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 frames at 10 a second."""
    return draw_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", "grow", seed=3, num_frames=NUM_FRAMES)


def count_frames(model: VideoTextModel | VideoClassifier, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of each call of the backbone's first layer, from now on."""
    counted: list[int] = []
    trunk = model.backbone.trunk
    embed: Callable[[Tensor], tuple[Tensor, object]] = trunk.embed

    def counting(images_ICHW: Tensor) -> tuple[Tensor, object]:
        counted.append(len(images_ICHW))
        return embed(images_ICHW)

    monkeypatch.setattr(trunk, "embed", counting)
    return counted


@torch.no_grad()
def test_each_window_equals_encode_video_and_each_frame_runs_once(
    text_model: VideoTextModel, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    embedder = VideoEmbedder(text_model, CROP, WindowSettings(4, 2, 5.0))
    counted = count_frames(text_model, monkeypatch)
    windows = embedder.embed(clip, on_progress=heard.append)
    # every second frame: 12 of them, in windows from 0, 2, 4, 6 and 8
    assert sum(counted) == 12
    assert [w.start_seconds for w in windows] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    # up to the frame after the last; the last one up to the end of the video
    assert [w.end_seconds for w in windows] == pytest.approx([0.8, 1.2, 1.6, 2.0, 2.3])
    assert {w.fps for w in windows} == {5.0}
    assert heard[-1] == 1
    with VideoReader(clip) as reader:
        pixels_TCHW = CROP(reader.read(range(NUM_FRAMES)))
    for number, window in enumerate(windows):
        shown = range(4 * number, 4 * number + 8, 2)
        assert window.times == pytest.approx([frame / 10 for frame in shown])
        alone_TE = text_model.encode_video(pixels_TCHW[list(shown)].unsqueeze(0))[0]
        torch.testing.assert_close(window.frames_TE, alone_TE, atol=1e-5, rtol=0)
        assert window.frames_TE.untyped_storage().nbytes() == 4 * window.frames_TE.numel(), "no view of a batch"
    assert embedder.width == windows[0].frames_TE.shape[1] == text_model.embed_dim


def test_a_video_shorter_than_a_window_fills_one(text_model: VideoTextModel, clip: Path) -> None:
    (window,) = VideoEmbedder(text_model, CROP, WindowSettings(8, 3, 2.0)).embed(clip)
    assert len(window.times) == len(window.frames_TE) == 8
    assert (window.start_seconds, window.end_seconds) == (0, pytest.approx(2.3))
    assert window.fps == pytest.approx(8 / 2.3)
    (window,) = VideoEmbedder(text_model, CROP, WindowSettings(30, 15, 2.0)).embed(clip)
    assert len(window.times) == NUM_FRAMES, "all that there are"


@torch.no_grad()
def test_classifiers_give_what_their_head_sees(text_model: VideoTextModel, clip: Path) -> None:
    model = VideoClassifier(text_model.backbone, 7, generator=torch.Generator().manual_seed(2)).eval()
    embedder = VideoEmbedder(model, CROP, WindowSettings(6, 6, 5.0))
    windows = embedder.embed(clip)
    with VideoReader(clip) as reader:
        pixels_TCHW = CROP(reader.read([12, 14, 16, 18, 20, 22]))
        raw_TCHW = reader.read([12, 14, 16, 18, 20, 22])
    feature_S = model.features(pixels_TCHW.unsqueeze(0))[0]
    torch.testing.assert_close(windows[1].frames_TE.mean(0), feature_S, atol=1e-5, rtol=0)
    torch.testing.assert_close(embedder.embed_clip(raw_TCHW).mean(0), feature_S, atol=1e-5, rtol=0)
    assert embedder.width == model.side.spec.width


def test_a_broken_video_is_its_own_error(text_model: VideoTextModel, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        VideoEmbedder(text_model, CROP, WindowSettings(4, 2)).embed(tmp_path / "text.mp4")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 0, "stride": 1}, "at least 1 frame; got 0"),
        ({"num_frames": 4, "stride": 5}, "stride must be from 1 to the window's 4 frames"),
        ({"num_frames": 4, "stride": 0}, "got 0"),
        ({"num_frames": 4, "stride": 2, "fps": 0}, "fps must be above 0"),
        ({"num_frames": 4, "stride": 2, "fps": float("nan")}, "fps must be above 0"),
    ],
)
def test_window_settings_that_are_not_allowed(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WindowSettings(**values)  # type: ignore[arg-type]


def test_defaults_follow_the_run() -> None:
    assert WindowSettings.for_model(12) == WindowSettings(12, 6, 2.0)
    assert WindowSettings.for_model(1) == WindowSettings(1, 1, 2.0)
    settings = WindowSettings.for_model(12, frames=7, fps=3)
    assert settings == WindowSettings(7, 3, 3)
    assert WindowSettings.from_json(settings.as_json()) == settings


def test_reading_ahead_keeps_order_and_closes() -> None:
    closed: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield from range(5)
            raise KeyError("late")
        finally:
            closed.append(True)

    found: list[int] = []
    with pytest.raises(KeyError, match="late"):  # noqa: PT012
        for item in read_ahead(items()):
            found.append(item)
    assert (found, closed) == ([0, 1, 2, 3, 4], [True])
    early = read_ahead(items())
    assert next(early) == 0
    early.close()  # type: ignore[attr-defined]
    assert closed == [True, True]
