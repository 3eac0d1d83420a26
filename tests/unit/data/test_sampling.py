"""Properties of the samplers that hold for every frame count; the released values are in reference/test_samplers.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from side4video.data import retrieval_sampling as retrieval
from side4video.data.sampling import FrameSampler, SamplingKind, segment_val, uniform_val
from side4video.errors import InputError

KINDS: list[SamplingKind] = ["segment", "dense", "uniform"]
frame_counts = st.integers(1, 2000)
clip_lengths = st.sampled_from([1, 3, 8, 12, 16, 32, 200])


@pytest.mark.parametrize("kind", KINDS)
@given(n=frame_counts, T=clip_lengths, num_clips=st.integers(1, 11), seed=st.integers(0, 9))
def test_every_index_exists(kind: SamplingKind, n: int, T: int, num_clips: int, seed: int) -> None:
    sampler = FrameSampler(kind, T)
    clips = [sampler.train(n, torch.Generator().manual_seed(seed)), sampler.val(n), *sampler.test(n, num_clips)]
    assert len(clips) == num_clips + 2
    for clip in clips:
        assert len(clip) == T
        assert min(clip) >= 0
        assert max(clip) < n


@pytest.mark.parametrize("kind", ["segment", "uniform"])
@given(n=frame_counts, T=clip_lengths, seed=st.integers(0, 9))
def test_sparse_clips_are_in_order(kind: SamplingKind, n: int, T: int, seed: int) -> None:
    sampler = FrameSampler(kind, T)
    for clip in (sampler.train(n, torch.Generator().manual_seed(seed)), sampler.val(n)):
        assert clip == sorted(clip)


@pytest.mark.parametrize("num_clips", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_a_long_video_differ(kind: SamplingKind, num_clips: int) -> None:
    clips = FrameSampler(kind, 8).test(401, num_clips)
    assert len({tuple(clip) for clip in clips}) == num_clips


@given(n=frame_counts, T=clip_lengths, num_clips=st.integers(1, 5))
def test_uniform_test_equals_the_float_formula(n: int, T: int, num_clips: int) -> None:
    """`floor(c*(n/T-1)/(clips-1))`, then `int(start + i*n/T) % n`, in exact fractions."""
    from fractions import Fraction
    from math import floor, trunc

    tick = Fraction(n, T)
    expected = [
        [trunc(floor((tick - 1) * c / max(1, num_clips - 1)) + i * tick) % n for i in range(T)]
        for c in range(num_clips)
    ]
    assert FrameSampler("uniform", T).test(n, num_clips) == expected


@given(n=frame_counts, T=clip_lengths, num_clips=st.integers(1, 5))
def test_segment_test_equals_the_float_formula(n: int, T: int, num_clips: int) -> None:
    from fractions import Fraction

    s = Fraction(n - 1, T)  # round() of a Fraction rounds halves to even
    expected = [[round(i * s) + int(s * (c + 1) / (num_clips + 1)) for i in range(T)] for c in range(num_clips)]
    assert FrameSampler("segment", T).test(n, num_clips) == expected


def test_training_depends_on_the_generator_only() -> None:
    for kind in KINDS:
        sampler = FrameSampler(kind, 8)
        a, b, c = (sampler.train(333, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        torch.manual_seed(99)
        assert a == b != c


def test_one_frame_video() -> None:
    assert segment_val(1, 5) == uniform_val(1, 5) == [0] * 5
    for kind in KINDS:
        assert FrameSampler(kind, 5).test(1, 3) == [[0] * 5] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_bad_counts(kind: SamplingKind) -> None:
    sampler = FrameSampler(kind, 8)
    with pytest.raises(InputError, match="video_frames must be at least 1; got 0"):
        sampler.val(0)
    with pytest.raises(InputError, match="video_frames must be at least 1; got -3"):
        sampler.train(-3, torch.Generator())
    with pytest.raises(InputError, match="num_clips must be at least 1; got 0"):
        sampler.test(9, 0)


def test_bad_samplers() -> None:
    with pytest.raises(InputError, match="sampling must be one of segment, dense, uniform; got 'random'"):
        FrameSampler("random", 8)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="a clip needs at least 1 frame"):
        FrameSampler("dense", 0)


@given(n=frame_counts, T=clip_lengths, seed=st.integers(0, 9))
def test_retrieval_slots_exist_and_empty_ones_come_last(n: int, T: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for chosen in (
        retrieval.strategy_1(n, T),
        retrieval.strategy_2(n, T, generator),
        retrieval.strategy_3(n, T, generator),
        retrieval.strategy_4(n, T),
        retrieval.by_rate(n, T, frames_per_second=25, rate=2),
    ):
        assert len(chosen.indices) == len(chosen.mask) == T
        assert min(chosen.indices) >= 0
        assert max(chosen.indices) < n
        assert list(chosen.mask) == sorted(chosen.mask, reverse=True)
        assert chosen.mask[0]
        real = [index for index, full in zip(chosen.indices, chosen.mask, strict=True) if full]
        assert real == sorted(real)


def test_short_retrieval_videos_are_seen_whole() -> None:
    assert set(retrieval.strategy_1(5, 12).indices) == set(range(5))
    offsets = {retrieval.strategy_2(5, 12, torch.Generator().manual_seed(s)).indices[0] for s in range(60)}
    assert offsets == set(range(5))


def test_bad_retrieval_counts() -> None:
    with pytest.raises(InputError, match="must be at least 1; got 0"):
        retrieval.strategy_1(0, 12)
    with pytest.raises(InputError, match="must be at least 1; got 0"):
        retrieval.by_rate(9, 12, frames_per_second=0)
