from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.timm_vit import TimmViT, require_family
from side4video.errors import BackboneError


def test_registers_are_prefix_tokens_and_token_0_is_the_class_token() -> None:
    trunk = TimmViT(timm.create_model("test_vit4", pretrained=False))
    dino = TimmViT(timm.create_model("vit_small_patch14_reg4_dinov2", pretrained=False, depth=2, img_size=(28, 42)))
    assert (dino.num_prefix, dino.has_class_token, dino.grid((28, 42))) == (5, True, (2, 3))
    siglip = TimmViT(timm.create_model("vit_base_patch16_siglip_224", pretrained=False, depth=2, img_size=(32, 48)))
    assert (siglip.num_prefix, siglip.has_class_token) == (0, False)
    assert trunk.patch_size == (16, 16)


def test_only_post_norm_eva_says_so() -> None:
    with torch.device("meta"):
        assert TimmViT(timm.create_model("eva02_enormous_patch14_clip_224", depth=2)).post_norm
        assert not TimmViT(timm.create_model("eva02_large_patch14_clip_224", depth=2)).post_norm
        assert not TimmViT(timm.create_model("test_vit")).post_norm


def test_pixels_come_from_timms_record() -> None:
    model = timm.create_model("test_vit", pretrained=False)
    pixels = TimmViT(model).preprocessing
    assert (pixels.mean, pixels.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (pixels.image_size, pixels.interpolation) == ((160, 160), "bicubic")
    nearest = timm.create_model("test_vit", pretrained=False, pretrained_cfg_overlay={"interpolation": "bilinear"})
    assert TimmViT(nearest).preprocessing.interpolation == "bilinear"


def test_a_fixed_model_takes_its_own_size_only() -> None:
    trunk = TimmViT(timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2))
    with pytest.raises(
        BackboneError, match=r"got 96x160, but this VisionTransformer takes 224x224 only; .*image_size="
    ):
        trunk.grid((96, 160))


def test_rotary_angles_keep_their_precision_in_half_precision() -> None:
    def made(precision: torch.dtype | None) -> FrozenBackbone:
        torch.manual_seed(0)
        model = timm.create_model("eva02_tiny_patch14_224", pretrained=False, depth=2, dynamic_img_size=True)
        return FrozenBackbone(TimmViT(model), name="x", precision=precision)

    exact, half = made(None), made(torch.bfloat16)
    images = torch.randn(2, 3, 28 * 14, 19 * 14)
    angles = exact.trunk.embed(images)[1]
    rounded = half.trunk.embed(images.bfloat16())[1]
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, angles.bfloat16())


def test_a_model_of_ones_own_that_is_built_like_timms_works() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = timm.create_model("test_vit", pretrained=False)
            for part in (
                "patch_embed",
                "patch_drop",
                "norm_pre",
                "blocks",
                "norm",
                "cls_token",
                "reg_token",
                "pos_embed",
            ):
                setattr(self, part, getattr(inner, part))
            self.inner_positions = inner._pos_embed
            self.num_prefix_tokens, self.embed_dim = inner.num_prefix_tokens, inner.embed_dim

        def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner_positions(x)

    backbone = FrozenBackbone(TimmViT(Own()), name="own")
    (layer,) = backbone.stream(torch.randn(2, 3, 3, 160, 160), [1])
    assert layer.grid_YX == (10, 10)


def test_the_refusal_names_the_class_and_what_works() -> None:
    with pytest.raises(BackboneError, match=r"^Linear has no list of blocks .*what works: .*tiny-clip"):
        require_family(nn.Linear(2, 3))


def test_a_model_without_pooling_has_no_embedding() -> None:
    trunk = TimmViT(timm.create_model("test_vit", pretrained=False, global_pool="", num_classes=0).eval())
    with pytest.raises(BackboneError, match="without pooling"):
        FrozenBackbone(trunk, name="x").features(torch.randn(2, 3, 3, 160, 160))
