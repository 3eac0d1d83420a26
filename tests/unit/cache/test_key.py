"""Which caches may serve which runs, and bytes of a clip."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from side4video.cache.key import CacheKey, clip_bytes

KEY = CacheKey(
    backbone_hash="a" * 64, tokens_precision="bfloat16", quantise="none", cache_precision="own", image_size=(32, 48),
    mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic", taps=(1, 3), last="none", depth=5, data="d",
    num_records=7, num_frames=4, sampling="segment, train", transform="T()", views=3, clips_per_view=2, seed=11,
)  # fmt: skip
OTHER: dict[str, Any] = {
    "backbone_hash": "b" * 64, "tokens_precision": "float32", "quantise": "int8", "cache_precision": "int8",
    "image_size": (48, 32),
    "mean": (0.1, 0.2, 0.4), "std": (0.4, 0.5, 0.7), "interpolation": "nearest", "depth": 6, "data": "e",
    "num_records": 8, "num_frames": 5, "sampling": "uniform, train", "transform": "U()", "views": 2,
    "clips_per_view": 1, "seed": 12, "format": 2,
}  # fmt: skip


def test_a_cache_fits_its_own_key() -> None:
    assert KEY.fits(KEY.as_json()) == []
    assert KEY.num_items == 21


def test_every_field_counts() -> None:
    free = {"taps", "last"}
    assert OTHER.keys() | free == KEY.as_json().keys()
    for name, value in OTHER.items():
        (clause,) = replace(KEY, **{name: value}).fits(KEY.as_json())
        assert clause.startswith(f"{name} is ")


@pytest.mark.parametrize(
    ("wanted", "there", "fits"),
    [
        (((3,), "none"), ((1, 3), "none"), True),
        (((1, 2), "none"), ((1, 3), "none"), False),
        (((1,), "class"), ((1,), "none"), False),
        (((1,), "class"), ((1,), "class"), True),
        (((1,), "class"), ((1,), "all"), True),
        (((1,), "all"), ((1,), "class"), False),
        # block 4 is the last
        (((1,), "all"), ((1, 4), "none"), True),
        (((1,), "none"), ((1,), "class"), True),
    ],
)
def test_more_layers_than_needed_will_do(
    wanted: tuple[tuple[int, ...], Any], there: tuple[tuple[int, ...], Any], fits: bool
) -> None:
    key = replace(KEY, taps=wanted[0], last=wanted[1])
    stored = replace(KEY, taps=there[0], last=there[1]).as_json()
    assert (key.fits(stored) == []) is fits


def test_layers() -> None:
    assert replace(KEY, last="class").class_layers == (4,)
    assert replace(KEY, last="class", taps=(2, 4)).class_layers == ()
    assert replace(KEY, last="all").whole_layers == (1, 3, 4)
    assert (KEY.is_exact, replace(KEY, cache_precision="bf16").is_exact) == (True, True)
    assert not replace(KEY, cache_precision="bf16", tokens_precision="float32").is_exact
    assert not replace(KEY, cache_precision="int8").is_exact


def test_bytes_of_a_clip() -> None:
    shape: dict[str, Any] = {"width": 8, "num_frames": 4, "image_size": (32, 48)}
    exact = clip_bytes(13, stored_type=torch.bfloat16, whole_pixels=False, **shape)
    assert (exact.tokens, exact.scales, exact.pixels) == (4 * 13 * 8 * 2, 0, 4 * 3 * 32 * 48)
    small = clip_bytes(13, stored_type=torch.int8, whole_pixels=True, **shape)
    assert (small.tokens, small.scales, small.pixels) == (4 * 13 * 8, 4 * 13 * 4, 4 * 3 * 32 * 48 * 4)
    assert small.together == small.tokens + small.scales + small.pixels
