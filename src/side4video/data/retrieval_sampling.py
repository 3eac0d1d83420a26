"""Which frames of a video text-video retrieval looks at.

The four strategies of the released code, in integer arithmetic over a frame count, and the sampler that works by frames
a second. Indices count from 0. A slot whose mask is `False` has no frame: it is an all-zero picture.

Source: Side4Video, arXiv:2311.15769, released code, retrieval; the values were compared one by one. In short videos
strategies 1 and 2 of that code ask for files that do not exist; what we do instead stands at each function.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from side4video.errors import InputError


@dataclass(frozen=True)
class MaskedFrames:
    """T slots: the frame of each, and whether it holds one. Empty slots come last and have index 0."""

    indices: tuple[int, ...]
    mask: tuple[bool, ...]


def strategy_1(video_frames: int, T: int) -> MaskedFrames:
    """Every (n//T)-th frame from the first; more than T are thinned by an integer linspace (MSR-VTT and MSVD test).

    Differs below 2T frames, where the released code often asks for missing files: the rule is then applied as it is
    stated, and a video of fewer than T frames gives frame `i*n//T` to slot i, so that all of it is seen.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T)
    if video_frames < T:
        return _full([i * video_frames // T for i in range(T)])
    frames = range(0, video_frames, video_frames // T)
    return _full([frames[position] for position in _linspace(len(frames), T)])


def strategy_2(video_frames: int, T: int, generator: torch.Generator, *, frames_per_second: int = 30) -> MaskedFrames:
    """One frame a second, all at the same random offset; more than T are thinned, fewer leave empty slots.

    Differs where the video is shorter than a second: the offset is drawn from the frames that exist.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T, frames_per_second)
    offset = _draw(min(frames_per_second, video_frames), generator)
    return _thin_or_pad(range(offset, video_frames, frames_per_second), T)


def strategy_3(video_frames: int, T: int, generator: torch.Generator) -> MaskedFrames:
    """One random frame from each of T strides of n//T (training); the tail beyond T*(n//T) is never seen.

    A video of fewer than T frames gives its first frame T times, as released.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T)
    stride = video_frames // T
    return _full([i * stride + _draw(stride, generator) if stride else 0 for i in range(T)])


def strategy_4(video_frames: int, T: int) -> MaskedFrames:
    """The centres of T equal parts (VATEX test); a video of at most T frames gives its first frame T times.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T)
    if video_frames <= T:
        return _full([0] * T)
    return _full([(2 * i + 1) * video_frames // (2 * T) for i in range(T)])


def by_rate(video_frames: int, T: int, *, frames_per_second: int, rate: int = 1) -> MaskedFrames:
    """`rate` frames of each second; more than T are thinned by an integer linspace, fewer leave empty slots.

    Raises: InputError when an argument is below 1.
    """
    _check(video_frames, T, frames_per_second, rate)
    return _thin_or_pad(range(0, video_frames, max(1, frames_per_second // rate)), T)


def _thin_or_pad(frames: range, T: int) -> MaskedFrames:
    if len(frames) > T:
        return _full([frames[position] for position in _linspace(len(frames), T)])
    empty = T - len(frames)
    return MaskedFrames((*frames, *[0] * empty), (True,) * len(frames) + (False,) * empty)


def _full(indices: list[int]) -> MaskedFrames:
    return MaskedFrames(tuple(indices), (True,) * len(indices))


def _linspace(count: int, T: int) -> list[int]:
    """T positions from the first to the last of `count`, rounded down."""
    return [i * (count - 1) // max(1, T - 1) for i in range(T)]


def _draw(count: int, generator: torch.Generator) -> int:
    """A uniform integer from 0 to below `count`."""
    return int(torch.randint(count, (), generator=generator))


def _check(*values: int) -> None:
    if min(values) < 1:
        raise InputError(f"frame counts and rates must be at least 1; got {min(values)}")
