from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from open_clip.model import resize_pos_embed
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.freezing import frozen_arithmetic
from side4video.backbones.open_clip_vit import OpenClipViT, open_clip_preprocessing
from side4video.errors import BackboneError


def tower(side: int, *, patch_dropout: float = 0.0) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=side,
        patch_size=8,
        width=48,
        layers=3,
        heads=4,
        mlp_ratio=2.0,
        output_dim=20,
        act_layer=QuickGELU,
        norm_layer=LayerNorm,
        patch_dropout=patch_dropout,
    )


def test_another_size_resamples_positions_as_the_library_does() -> None:
    small, large = tower(32).eval(), tower(56).eval()
    state = {f"visual.{key}": value for key, value in small.state_dict().items()}
    resize_pos_embed(state, SimpleNamespace(visual=large))
    large.load_state_dict({key.removeprefix("visual."): value for key, value in state.items()})
    clip = torch.randn(2, 3, 3, 56, 56)
    backbone = FrozenBackbone(OpenClipViT(small, image_size=(56, 56)), name="x")
    with frozen_arithmetic(clip):
        expected = large(clip.flatten(0, 1))
    assert torch.equal(backbone.features(clip).flatten(0, 1), expected)
    assert backbone.preprocessing.image_size == (56, 56)


def test_rectangles_keep_rows_and_columns_apart() -> None:
    visual = tower(32).eval()
    trunk = OpenClipViT(visual)
    assert trunk.grid((16, 40)) == (2, 5)
    with torch.no_grad():
        # positions that only depend on the row must stay so when the grid is no longer square
        visual.positional_embedding[1:] = torch.arange(4.0).repeat_interleave(4)[:, None]
        table = trunk._positions_AD((2, 5))[1:].unflatten(0, (2, 5))
    torch.testing.assert_close(table, table[:, :1].expand_as(table))
    assert not torch.allclose(table[0], table[1])


def test_patch_dropout_is_off() -> None:
    backbone = FrozenBackbone(OpenClipViT(tower(32, patch_dropout=0.5)), name="x").train()
    (layer,) = backbone.stream(torch.randn(2, 3, 3, 32, 32), [1])
    assert layer.patches_BTND.shape[2] == 16


def test_half_precision_runs_and_stays_near() -> None:
    clip = torch.randn(2, 3, 3, 40, 24)
    exact = FrozenBackbone(OpenClipViT(tower(32)), name="x").features(clip)
    rounded = FrozenBackbone(OpenClipViT(tower(32)), name="x", precision=torch.bfloat16).features(clip)
    assert rounded.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, rounded.float(), dim=-1).min() > 0.999


def test_the_record_of_pixels() -> None:
    visual = tower(32)
    assert open_clip_preprocessing(visual).mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    record: object = {"mean": (0.1, 0.2, 0.3), "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    visual.preprocess_cfg = record
    pixels = OpenClipViT(visual).preprocessing
    assert (pixels.mean, pixels.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (pixels.interpolation, pixels.image_size) == ("bilinear", (32, 32))


def test_sizes_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(BackboneError, match="got 36x40, allowed are multiples of the patch size 8x8"):
        OpenClipViT(tower(32), image_size=(36, 40))
