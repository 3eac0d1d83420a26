"""Stored tokens as layers: which, in what precision, and how far off int8 is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from side4video.backbones.stored import dequantise, quantise, stream_stored
from side4video.batch import StoredTokens

B, T, A, D = 2, 3, 7, 16


def stored(precision: torch.dtype = torch.float32) -> StoredTokens:
    generator = torch.Generator().manual_seed(3)
    whole = [torch.randn(B, T, A, D, generator=generator).to(precision) for _ in range(2)]
    last = torch.randn(B, T, 1, D, generator=generator).to(precision)
    return StoredTokens(
        layers=(1, 4, 5), tokens=(*whole, last), scales=(), precision=precision, num_prefix=1, has_class_token=True,
        grid_YX=(2, 3),
    )  # fmt: skip


def test_the_wanted_layers_in_order() -> None:
    given = stored(torch.bfloat16)
    found = list(stream_stored(given, (5, 1)))
    assert [layer.layer for layer in found] == [1, 5]
    assert torch.equal(found[0].tokens_BTAD, given.tokens[0])
    assert found[0].patches_BTND.shape == (B, T, 6, D)
    # of the last block there is the class token alone
    assert torch.equal(found[1].class_BTD, given.tokens[2][:, :, 0])
    assert found[1].patches_BTND.shape == (B, T, 0, D)


def test_a_layer_that_is_not_stored_is_named() -> None:
    with pytest.raises(ValueError, match=r"blocks \[0, 3\] are missing; there are \[1, 4, 5\]"):
        list(stream_stored(stored(), (0, 1, 3)))


def test_rows_are_of_every_layer() -> None:
    part = stored().rows(slice(1, 2))
    assert [tuple(tokens.shape) for tokens in part.tokens] == [(1, T, A, D), (1, T, A, D), (1, T, 1, D)]


def test_int8_comes_back_in_the_backbones_precision() -> None:
    given = stored(torch.bfloat16)
    parts = [quantise(tokens) for tokens in given.tokens]
    small = replace(given, tokens=tuple(q for q, _ in parts), scales=tuple(s for _, s in parts))
    for layer, exact in zip(stream_stored(small, given.layers), given.tokens, strict=True):
        assert layer.tokens_BTAD.dtype == torch.bfloat16
        error = (layer.tokens_BTAD.float() - exact.float()).norm() / exact.float().norm()
        assert 0 < error < 0.01


def test_each_token_has_its_own_scale_and_zeros_stay_zeros() -> None:
    tokens_BTAD = torch.randn(B, T, A, D, generator=torch.Generator().manual_seed(1))
    tokens_BTAD[0, 1, 2] *= 1000
    tokens_BTAD[1, 0, 3] = 0
    int8_BTAD, scale_BTA1 = quantise(tokens_BTAD)
    assert int8_BTAD.dtype == torch.int8
    assert scale_BTA1.shape == (B, T, A, 1)
    assert int(int8_BTAD.abs().amax()) == 127
    off_BTAD = (dequantise(int8_BTAD, scale_BTA1) - tokens_BTAD).abs()
    # half a step of the token's own scale, and not of its large neighbour's
    assert bool((off_BTAD <= 0.5001 * scale_BTA1).all())
    assert not dequantise(int8_BTAD, scale_BTA1)[1, 0, 3].any()
