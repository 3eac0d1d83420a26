from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from side4video.backbones import FrozenBackbone, create, create_backbone, tiny
from side4video.backbones.freezing import frozen_arithmetic
from side4video.errors import BackboneError, CheckpointError
from unit.backbones.toy import ToyTrunk


def clip_of(backbone: FrozenBackbone, frames: int = 3) -> Tensor:
    height, width = backbone.preprocessing.image_size
    return torch.randn(2, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def layers(backbone: FrozenBackbone, clip: Tensor) -> list[Tensor]:
    return [layer.tokens_BTAD for layer in backbone.stream(clip, range(backbone.depth))]


def same(one: FrozenBackbone, other: FrozenBackbone) -> bool:
    clip = clip_of(one)
    return all(torch.equal(a, b) for a, b in zip(layers(one, clip), layers(other, clip), strict=True))


def test_tiny_clip_with_random_weights() -> None:
    backbone = create_backbone("tiny-clip", pretrained=False, precision="fp32")
    assert backbone.name == "tiny-clip"
    assert backbone.preprocessing.image_size == (tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    assert backbone.preprocessing.mean == tiny.MEAN
    assert backbone.features(clip_of(backbone)).shape == (2, 3, tiny.EMBED_DIM)


def test_tiny_clip_from_a_file(tmp_path: Path) -> None:
    model = tiny.tiny_clip_model(pretrained=False)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "x.safetensors")
    backbone = create_backbone("tiny-clip", weights=str(tmp_path / "x.safetensors"), precision="fp32")
    with frozen_arithmetic(model.visual.proj):
        expected = model.visual(clip_of(backbone).flatten(0, 1))
    assert torch.equal(backbone.features(clip_of(backbone)).flatten(0, 1), expected)


@pytest.mark.parametrize("wrap", ["plain", "model", "module", "trunk"])
def test_a_file_for_a_timm_model(tmp_path: Path, wrap: str) -> None:
    torch.manual_seed(2)
    model = timm.create_model("test_vit", pretrained=False)
    state = model.state_dict()
    content: object = {
        "plain": state,
        "model": {"model": state, "epoch": 2},
        "module": {f"module.{key}": value for key, value in state.items()},
        "trunk": {f"visual.trunk.{key}": value for key, value in state.items()},
    }[wrap]
    torch.save(content, tmp_path / "x.pt")
    backbone = create_backbone("timm:test_vit", weights=str(tmp_path / "x.pt"), precision="fp32")
    assert same(backbone, create_backbone(model))


def test_positions_of_a_file_of_another_size_are_resampled(tmp_path: Path) -> None:
    torch.manual_seed(2)
    square = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, num_classes=0)
    nn.init.normal_(square.pos_embed)
    torch.save(square.state_dict(), tmp_path / "square.pt")
    backbone = create_backbone("timm:vit_tiny_patch16_224", weights=str(tmp_path / "square.pt"), precision="fp32")
    expected = resample_abs_pos_embed(square.pos_embed, new_size=[14, 14], old_size=[4, 4], num_prefix_tokens=1)
    assert torch.equal(backbone.trunk.model.pos_embed, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 2}, "x.pt lacks 120 of the 150 tensors of timm:vit_tiny_patch16_224, such as blocks.2.norm1.weight"),
        ({"embed_dim": 96}, r"does not fit timm:vit_tiny_patch16_224: cls_token \(1, 1, 96\) instead of \(1, 1, 192\)"),
        ({"img_size": (48, 80)}, "the file does not fit VisionTransformer"),
    ],
)
def test_a_file_of_another_model(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    other = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **options)
    torch.save(other.state_dict(), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        create_backbone("timm:vit_tiny_patch16_224", weights=str(tmp_path / "x.pt"))


def test_another_input_size_and_every_shape_besides() -> None:
    backbone = create_backbone("timm:vit_tiny_patch16_224", pretrained=False, image_size=(32, 80), precision="fp32")
    assert backbone.preprocessing.image_size == (32, 80)
    (layer,) = backbone.stream(clip_of(backbone), [0])
    assert layer.grid_YX == (2, 5)
    (layer,) = backbone.stream(torch.randn(2, 3, 3, 96, 64), [0])
    assert layer.grid_YX == (6, 4)
    with pytest.raises(BackboneError, match="got 100x100, allowed are multiples of the patch size 16x16"):
        create_backbone("timm:vit_tiny_patch16_224", pretrained=False, image_size=100)


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_relative_positions_are_resampled_once_and_the_hash_is_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "beit_base_patch16_224"
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "x.pt")
    own = create_backbone(f"timm:{name}", weights=str(tmp_path / "x.pt"), precision="fp32")
    other = create_backbone(f"timm:{name}", weights=str(tmp_path / "x.pt"), image_size=(96, 64), precision="fp32")
    assert other.grid((96, 64)) == (6, 4)
    tables = [b.trunk.model.blocks[0].attn.relative_position_bias_table for b in (own, other)]
    assert tables[0].shape != tables[1].shape
    assert other.content_hash() == own.content_hash()
    (layer,) = other.stream(clip_of(other), [1])
    assert layer.patches_BTND.shape[2] == 24


def test_a_file_for_an_open_clip_tower_alone_or_inside_its_clip(tmp_path: Path) -> None:
    made = create_backbone("open_clip:ViT-B-32/openai", pretrained=False, precision="fp32", image_size=64)
    visual = made.trunk.visual
    save_file({key: value.contiguous() for key, value in visual.state_dict().items()}, tmp_path / "x.safetensors")
    inside = {f"module.visual.{key}": value for key, value in visual.state_dict().items()}
    torch.save({"state_dict": inside | {"module.logit_scale": torch.ones(1)}}, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        again = create_backbone(
            "open_clip:ViT-B-32/openai", weights=str(tmp_path / name), precision="fp32", image_size=64
        )
        assert same(made, again)
        assert made.content_hash() == again.content_hash()
    wrong = create_backbone("open_clip:ViT-B-32", weights=str(tmp_path / "x.pt"), precision="fp32", image_size=64)
    assert not same(made, wrong), "the tag's QuickGELU must make a difference"


def test_quick_gelu_follows_the_tag_and_the_embedding_is_open_clips() -> None:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    by_tag = create_backbone("open_clip:ViT-B-32/openai", pretrained=False, precision="fp32")
    by_tag.trunk.visual.load_state_dict(model.visual.state_dict())
    clip = clip_of(by_tag, frames=1)
    with frozen_arithmetic(clip):
        expected = model.encode_image(clip.flatten(0, 1))
    # the same kernels, whose sums depend on how two models' weights are aligned
    torch.testing.assert_close(by_tag.features(clip).flatten(0, 1), expected, atol=1e-5, rtol=1e-5)
    assert same(by_tag, create_backbone(model))


def test_pixels_without_a_tag_are_those_of_all_tags() -> None:
    assert create_backbone("open_clip:ViT-B-16-SigLIP", pretrained=False).preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinyclip", "'tinyclip' is not known; did you mean 'tiny-clip'"),
        ("ViT-B-16/openai", "did you mean 'open_clip:ViT-B-16/openai'"),
        ("keras:vgg", "Allowed are tiny-clip, auto, timm:NAME and open_clip:ARCH/PRETRAINED"),
        ("timm:", "is not known"),
        ("timm:vit_base_patch16_225", "not known to timm; did you mean 'vit_base_patch16_224'"),
        ("timm:vit_base_patch16_224.magic", "no weights called 'magic', allowed are .*augreg"),
        ("timm:vit_base_patch32_plus_256", "has no published weights; give weights=PATH or pretrained=False"),
        ("timm:resnet50.a1_in1k", "'timm:resnet50.a1_in1k': ResNet has no list of blocks .*what works"),
        ("timm:swin_tiny_patch4_window7_224", "SwinTransformer has no list of blocks"),
        ("open_clip:ViT-B-17/openai", "open_clip has no 'ViT-B-17'; did you mean"),
        ("open_clip:ViT-B-16/openia", "no weights called 'openia', allowed are .* did you mean 'openai'"),
        ("open_clip:ViT-B-16", "names no weights: write open_clip:ViT-B-16/PRETRAINED with one of openai"),
        ("open_clip:RN50/openai", "ModifiedResNet has no patch tokens; what works"),
    ],
)
def test_names_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        create_backbone(name)


def test_a_model_that_cannot_be_downloaded_says_what_to_do() -> None:
    for name in ("timm:test_vit.r160_in1k", "open_clip:ViT-B-32/openai"):
        with pytest.raises(BackboneError, match=rf"{name!r}.*weights=PATH, or use tiny-clip"):
            create_backbone(name)


def test_auto_falls_back_to_tiny_clip_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(create, "_tiny", lambda **_: ToyTrunk())
    with caplog.at_level(logging.WARNING):
        assert create_backbone("auto").name == "tiny-clip"
    assert "using tiny-clip, which is small, in place of open_clip:ViT-B-16/openai" in caplog.text
    with pytest.raises(BackboneError, match="'auto' with weights=PATH: name the model"):
        create_backbone("auto", weights="x.pt")


def test_models_that_are_already_built() -> None:
    toy = create_backbone(ToyTrunk())
    assert (toy.name, toy.precision) == ("custom:ToyTrunk", torch.float32)
    assert create_backbone(toy) is toy
    model = timm.create_model("test_vit", pretrained=False).bfloat16()
    assert create_backbone(model).precision == torch.bfloat16
    assert create_backbone(model, precision="fp32").precision == torch.float32
    tower = open_clip.create_model("ViT-B-32", pretrained=None).visual
    assert create_backbone(tower).name == "custom:VisionTransformer"
    with pytest.raises(BackboneError, match="Linear has no list of blocks over patch tokens"):
        create_backbone(nn.Linear(2, 3))
    with pytest.raises(BackboneError, match="weights=PATH goes with a name"):
        create_backbone(ToyTrunk(), weights="x.pt")


def test_precision_by_name() -> None:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        backbone = create_backbone("tiny-clip", pretrained=False, precision=name)
        assert {parameter.dtype for parameter in backbone.parameters()} == {dtype}
        (layer,) = backbone.stream(clip_of(backbone), [2])
        assert layer.tokens_BTAD.dtype == dtype
        assert layer.tokens_BTAD.isfinite().all()
