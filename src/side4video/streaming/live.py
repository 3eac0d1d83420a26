"""A stream that never ends: frames go in one by one, predictions come out.

The engine is the timeline's: each frame passes the backbone once, and a window is scored every `stride` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from side4video.data.transforms import PixelFormat, TestTransform
from side4video.errors import CheckpointError, InputError
from side4video.streaming.passes import make_passes
from side4video.streaming.scorers import ClassScorer, MiddleCrop, Scorer
from side4video.tasks.recognition import VideoClassifier
from side4video.windows import WindowPlan

DEFAULT_FRAMES = 8
TOP_K = 5


@dataclass(frozen=True)
class LivePrediction:
    """What a model says of its last window: the best labels with their scores, best first.

    `first_frame` and `last_frame` count the frames that were pushed, from 0.
    """

    model: str
    first_frame: int
    last_frame: int
    top: tuple[tuple[str, float], ...]


class StreamingClassifier:
    """Classifies a stream of frames as they come; every frame passes the frozen model once.

    `model` is a classifier, or scorers as `load_scorers` makes them, of one run or of several. A window is the last
    `num_frames` frames (default: what the model's run was trained on, 8 for a bare classifier), and one is scored every
    `stride` frames, the first as soon as it is full. Push frames at the rate that makes a window last as long as a
    training clip. `autocast` gives the context of the model's precision.

        stream = StreamingClassifier(side4video.load("runs/mine"), num_frames=8)
        for frame in camera:
            for prediction in stream.push(frame):
                print(prediction.top[0])

    Raises:
        InputError: no model, or a number that is not allowed.
    """

    def __init__(
        self,
        model: VideoClassifier | Sequence[Scorer],
        *,
        num_frames: int | None = None,
        stride: int = 1,
        top_k: int = TOP_K,
        resize: str = "short",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if num_frames is not None and num_frames < 1:
            raise InputError(f"num_frames must be at least 1; got {num_frames}")
        if stride < 1 or top_k < 1:
            raise InputError(f"stride and top_k must be at least 1; got {stride} and {top_k}")
        if isinstance(model, VideoClassifier):
            wanted = model.backbone.preprocessing
            pixels = PixelFormat(wanted.image_size, wanted.mean, wanted.std, wanted.interpolation)
            transform = MiddleCrop(TestTransform(pixels, resize))  # pyright: ignore[reportArgumentType] - checked there
            model = [ClassScorer("model", model.eval(), num_frames or DEFAULT_FRAMES, transform)]
        elif num_frames is not None:
            raise InputError("num_frames is for a bare classifier; scorers have their own")
        if not model:
            raise InputError("a stream needs a model; got none")
        self._passes = make_passes(model, lambda size: WindowPlan(size, stride))
        self._top_k = top_k
        self._autocast = autocast

    @torch.no_grad()
    def push(self, frame: np.ndarray | Tensor) -> list[LivePrediction]:
        """Take one frame, uint8 RGB of any size as HWC (an array or a tensor) or CHW (a tensor): the predictions of the
        windows that it completes, one for each model, often none.

        Raises:
            InputError: something else than a frame.
            CheckpointError: scores that are no numbers.
        """
        frames_TCHW = as_frame(frame).unsqueeze(0)
        found: list[LivePrediction] = []
        with self._autocast():
            for one in self._passes:
                for scored in one.push(one.transform(frames_TCHW)):
                    for start, scores_K in zip(scored.starts, scored.scores_WK, strict=True):
                        top = best_labels(scored.scorer, scores_K, self._top_k)
                        found.append(LivePrediction(scored.scorer.name, start, start + scored.num_frames - 1, top))
        return found

    def reset(self) -> None:
        """Begin anew: no window will hold frames from before and after."""
        for one in self._passes:
            one.reset()


def best_labels(scorer: Scorer, scores_K: Tensor, top_k: int) -> tuple[tuple[str, float], ...]:
    """The best labels with their scores, best first.

    Raises:
        CheckpointError: scores that are no numbers.
    """
    if not bool(torch.isfinite(scores_K).all()):
        raise CheckpointError(f"{scorer.name}: its scores are no numbers; its weights are damaged")
    scores, places = scores_K.topk(min(top_k, len(scores_K)))
    return tuple((scorer.labels[i], score) for score, i in zip(scores.tolist(), places.tolist(), strict=True))


def as_frame(frame: np.ndarray | Tensor) -> Tensor:
    """A frame as a uint8 tensor CHW.

    Raises:
        InputError: it is not uint8 with three channels, first or last.
    """
    if isinstance(frame, np.ndarray):
        frame = torch.from_numpy(np.ascontiguousarray(frame)) if frame.dtype == np.uint8 else torch.empty(0)
    is_frame = frame.dtype == torch.uint8 and frame.dim() == 3 and 3 in (frame.shape[0], frame.shape[2])
    if not is_frame or 0 in frame.shape:
        raise InputError(
            "a frame must be uint8 RGB of shape (height, width, 3) or (3, height, width); "
            f"got {frame.dtype} of shape {tuple(frame.shape)}"
        )
    return frame.permute(2, 0, 1) if frame.shape[2] == 3 else frame
