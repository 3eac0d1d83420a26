"""Which frames of a video become the T frames of a clip.

Every sampler is integer arithmetic over a frame count: no pixels, no seconds, no floating point. Indices count from 0
in display order. Each sampler is named by the family it comes from: `segment` (TSN, Something-Something), `uniform`
(Kinetics), `dense` (a window of 128 frames). The samplers of text-video retrieval are in `retrieval_sampling.py`.

Source: Side4Video, arXiv:2311.15769, released code, recognition; the values were compared one by one. Where that code
divides by zero (dense testing with one clip) or leaves validation to chance (dense validation), we take the middle
window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from side4video.errors import InputError

SamplingKind = Literal["segment", "dense", "uniform"]

DENSE_WINDOW = 128
"""Frames that a dense clip spans."""


@dataclass(frozen=True)
class FrameSampler:
    """One family of samplers with its number of frames T bound.

    Raises: InputError when `kind` is unknown or `num_frames` is below 1.
    """

    kind: SamplingKind
    num_frames: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind):
            raise InputError(f"sampling must be one of {', '.join(get_args(SamplingKind))}; got {self.kind!r}")
        if self.num_frames < 1:
            raise InputError(f"a clip needs at least 1 frame; got num_frames={self.num_frames}")

    def train(self, video_frames: int, generator: torch.Generator) -> list[int]:
        """T indices, drawn anew at each call."""
        sample = {"segment": segment_train, "dense": dense_train, "uniform": uniform_train}[self.kind]
        return sample(video_frames, self.num_frames, generator)

    def val(self, video_frames: int) -> list[int]:
        """T indices, always the same."""
        sample = {"segment": segment_val, "dense": dense_val, "uniform": uniform_val}[self.kind]
        return sample(video_frames, self.num_frames)

    def test(self, video_frames: int, num_clips: int) -> list[list[int]]:
        """`num_clips` lists of T indices, spread over the video."""
        sample = {"segment": segment_test, "dense": dense_test, "uniform": uniform_test}[self.kind]
        return sample(video_frames, self.num_frames, num_clips)


def segment_train(video_frames: int, T: int, generator: torch.Generator) -> list[int]:
    """One uniform draw from each of T equal parts; a video of at most T frames gives all of them and random repeats.

    Raises: InputError when `video_frames` or `T` is below 1.
    """
    _check(video_frames, T)
    if video_frames > T:
        return [_draw(i * video_frames // T, (i + 1) * video_frames // T - 1, generator) for i in range(T)]
    repeats = [_draw(0, video_frames - 1, generator) for _ in range(T - video_frames)]
    return sorted([*range(video_frames), *repeats])


def segment_val(video_frames: int, T: int) -> list[int]:
    """The one clip that validation looks at: `segment_test` with one clip.

    Raises: InputError when `video_frames` or `T` is below 1.
    """
    return segment_test(video_frames, T, 1)[0]


def segment_test(video_frames: int, T: int, num_clips: int) -> list[list[int]]:
    """Clip c takes `round(i*s) + int(s*(c+1)/(num_clips+1))` with s = (n-1)/T, rounding halves to even.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T, num_clips)
    last = video_frames - 1
    starts = [_round_half_even(i * last, T) for i in range(T)]
    offsets = [last * (c + 1) // (T * (num_clips + 1)) for c in range(num_clips)]
    return [[start + offset for start in starts] for offset in offsets]


def uniform_train(video_frames: int, T: int, generator: torch.Generator) -> list[int]:
    """One uniform draw from each `[round(i*s), round((i+1)*s)]`, both ends included, s = (n-1)/T.

    Raises: InputError when `video_frames` or `T` is below 1.
    """
    _check(video_frames, T)
    borders = [_round_half_even(i * (video_frames - 1), T) for i in range(T + 1)]
    return [_draw(borders[i], borders[i + 1], generator) for i in range(T)]


def uniform_val(video_frames: int, T: int) -> list[int]:
    """The first frame of each of T equal parts.

    Raises: InputError when `video_frames` or `T` is below 1.
    """
    _check(video_frames, T)
    return [i * video_frames // T for i in range(T)]


def uniform_test(video_frames: int, T: int, num_clips: int) -> list[list[int]]:
    """Clips of `uniform_val`'s spacing whose starts are spread over one spacing, wrapped around the end.

    In a video shorter than T the starts are negative, and the released code then truncates towards zero before it
    wraps; so do we.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T, num_clips)
    gaps = max(1, num_clips - 1)
    starts = [c * (video_frames - T) // (T * gaps) for c in range(num_clips)]
    return [[_truncate(start * T + i * video_frames, T) % video_frames for i in range(T)] for start in starts]


def dense_train(video_frames: int, T: int, generator: torch.Generator) -> list[int]:
    """T frames out of a window of 128 at a random place; the last possible place is never drawn, as released.

    Raises: InputError when `video_frames` or `T` is below 1.
    """
    _check(video_frames, T)
    places = video_frames - DENSE_WINDOW
    start = _draw(0, places - 1, generator) if places > 0 else 0
    return _dense_clip(start, video_frames, T)


def dense_val(video_frames: int, T: int) -> list[int]:
    """T frames out of the middle window of 128 (the released code draws the window at random here).

    Raises: InputError when `video_frames` or `T` is below 1.
    """
    _check(video_frames, T)
    return _dense_clip(max(0, video_frames - DENSE_WINDOW) // 2, video_frames, T)


def dense_test(video_frames: int, T: int, num_clips: int) -> list[list[int]]:
    """Windows of 128 that start at multiples of `floor(max(0, n-128) / (num_clips-1))`; one clip is the middle window.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T, num_clips)
    if num_clips == 1:
        return [dense_val(video_frames, T)]
    step = max(0, video_frames - DENSE_WINDOW) // (num_clips - 1)
    return [_dense_clip(c * step, video_frames, T) for c in range(num_clips)]


def _dense_clip(start: int, video_frames: int, T: int) -> list[int]:
    stride = max(1, DENSE_WINDOW // T)
    return [(start + i * stride) % video_frames for i in range(T)]


def _draw(lowest: int, highest: int, generator: torch.Generator) -> int:
    """A uniform integer between two ends, both included."""
    return int(torch.randint(lowest, highest + 1, (), generator=generator))


def _round_half_even(numerator: int, denominator: int) -> int:
    """`round(numerator / denominator)` as Python rounds, without the division's rounding."""
    quotient, remainder = divmod(numerator, denominator)
    up = 2 * remainder > denominator or (2 * remainder == denominator and quotient % 2 == 1)
    return quotient + up


def _truncate(numerator: int, denominator: int) -> int:
    """`int(numerator / denominator)`: towards zero."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


def _check(video_frames: int, T: int, num_clips: int = 1) -> None:
    for name, value in (("video_frames", video_frames), ("num_frames", T), ("num_clips", num_clips)):
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}")
