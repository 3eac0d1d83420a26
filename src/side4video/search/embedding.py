"""Videos to embedded windows: decode once, run each frame through the backbone once, one vector a frame and window.

Serves retrieval models (vectors in the space that text lives in) and classifiers (what their head sees). A video is
sampled at a rate that is the same for all, so that windows last equally long; one that is shorter than a window is
sampled faster, so that it fills one.

Shapes: E, width of a frame's vector: the joint width, or the side width of a classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from side4video.data.sequence import FrameSequence
from side4video.errors import ConfigError
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.windows import WindowPlan, WindowStream

DEFAULT_FPS = 2.0
Item = TypeVar("Item")


@dataclass(frozen=True)
class WindowSettings:
    """How videos are cut: windows of `num_frames` frames that are sampled at `fps`, one every `stride` frames.

    Raises:
        ConfigError: a value that is not allowed.
    """

    num_frames: int
    stride: int
    fps: float = DEFAULT_FPS

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ConfigError(f"a window must have at least 1 frame; got {self.num_frames}")
        if not 1 <= self.stride <= self.num_frames:
            raise ConfigError(
                f"the stride must be from 1 to the window's {self.num_frames} frames, so that no frame is left out; "
                f"got {self.stride}"
            )
        if not 0 < self.fps <= 1000:
            raise ConfigError(f"fps must be above 0 and at most 1000; got {self.fps}")

    @classmethod
    def for_model(
        cls, num_frames: int, *, frames: int | None = None, stride: int | None = None, fps: float | None = None
    ) -> WindowSettings:
        """The defaults for a model trained on `num_frames` frames: windows of that many, half of it apart."""
        length = num_frames if frames is None else frames
        return cls(length, max(1, length // 2) if stride is None else stride, DEFAULT_FPS if fps is None else fps)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WindowSettings:
        """The inverse of `as_json`."""
        return cls(int(value["num_frames"]), int(value["stride"]), float(value["fps"]))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.num_frames} frames at {self.fps:g} a second, every {self.stride}"


@dataclass(frozen=True)
class EmbeddedWindow:
    """One window of a video: when its frames are shown, and a vector for each, not normalised, float32 on the CPU.

    It lasts from its first frame to the frame after its last, or to the end of the video; seconds from the video's
    first frame. `fps` is the rate that frames were sampled at.
    """

    start_seconds: float
    end_seconds: float
    fps: float
    times: tuple[float, ...]
    frames_TE: Tensor


class VideoEmbedder:
    """A model with everything that it needs to embed videos.

    `transform` makes normalised frames of uint8 ones, as when the model was trained; `autocast` gives the context of
    the model's precision.
    """

    def __init__(
        self,
        model: VideoTextModel | VideoClassifier,
        transform: Callable[[Tensor], Tensor],
        settings: WindowSettings,
        *,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model
        self.transform = transform
        self.settings = settings
        self.autocast = autocast

    @property
    def width(self) -> int:
        """E."""
        return self.model.embed_dim if isinstance(self.model, VideoTextModel) else self.model.side.spec.width

    @torch.no_grad()
    def embed(self, path: Path, *, on_progress: Callable[[float], None] | None = None) -> list[EmbeddedWindow]:
        """All windows of a video file or a folder of frames, in order; `on_progress` hears which share is done.

        Raises:
            VideoError: the video cannot be read.
        """
        settings = self.settings
        stream = WindowStream(
            self.model.backbone,
            [WindowPlan(settings.num_frames, settings.stride)],
            sides=[self.model.side],
            taps=[self.model.backbone.depth - 1] if isinstance(self.model, VideoTextModel) else (),
        )
        sequence = FrameSequence(path, fps=settings.fps, min_frames=settings.num_frames)
        times: list[float] = []
        found: list[tuple[int, Tensor]] = []

        def chunks() -> Iterator[Tensor]:
            for chunk_times, frames_TCHW in read_ahead(_prepared(sequence, self.transform)):
                times.extend(chunk_times)
                yield frames_TCHW
                if on_progress is not None:
                    on_progress(sequence.fraction)

        with self.autocast():
            for windows in stream.run(chunks()):
                frames_BTE = self.model.encode_windows(windows).float().cpu()
                found += zip(windows.starts, frames_BTE, strict=True)
        fps = sequence.sampling_fps or settings.fps
        ends = [*times[1:], max(sequence.duration_seconds, times[-1])]
        return [
            EmbeddedWindow(
                times[start],
                ends[start + len(frames_TE) - 1],
                fps,
                tuple(times[start : start + len(frames_TE)]),
                frames_TE.clone(),
            )
            for start, frames_TE in found
        ]

    @torch.no_grad()
    def embed_clip(self, frames_TCHW: Tensor) -> Tensor:
        """`frames_TE` of uint8 frames taken as one clip."""
        clip_TCHW = self.transform(frames_TCHW).to(self.model.backbone.device)
        with self.autocast():
            if isinstance(self.model, VideoTextModel):
                frames_BTE = self.model.encode_video(clip_TCHW.unsqueeze(0))
            else:
                frames_BTE = self.model.video(clip_TCHW.unsqueeze(0)).frames_BTS
        return frames_BTE[0].float().cpu()


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, the next one made in a thread while this one is used (decoding leaves Python's lock alone)."""
    iterator, end = iter(items), object()
    try:
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, iterator, end)
            while (item := coming.result()) is not end:
                coming = pool.submit(next, iterator, end)
                yield item  # pyright: ignore[reportReturnType] - it is not the end
    finally:
        if isinstance(iterator, Generator):
            iterator.close()  # files that it holds open


def _prepared(
    sequence: FrameSequence, transform: Callable[[Tensor], Tensor]
) -> Iterator[tuple[tuple[float, ...], Tensor]]:
    for chunk in sequence:
        yield chunk.times, transform(chunk.frames_TCHW)
