"""Trained parameters of the full-size retrieval models, counted on the meta device, and how their new parts start."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from side4video.backbones import create_backbone
from side4video.backbones.text import TextTower
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import VideoTextModel

# image width, depth, patch; text width; joint width; side width
MODELS = {
    "ViT-B/32 side 320": (768, 12, 32, 512, 512, 320),
    "ViT-B/16 side 320": (768, 12, 16, 512, 512, 320),
    "ViT-L/14 side 320": (1024, 24, 14, 768, 768, 320),
    "ViT-L/14 side 512": (1024, 24, 14, 768, 768, 512),
}


@pytest.mark.parametrize("name", MODELS)
def test_trained_parameters_equal_the_released_models(parity_dir: Path, name: str) -> None:
    expected = json.loads((parity_dir / "counts.json").read_text())["retrieval (12 frames)"][name]
    width, depth, patch, text_width, embed, side = MODELS[name]
    vision = CLIPVisionCfg(image_size=224, patch_size=patch, width=width, layers=depth)
    with torch.device("meta"):
        clip = CLIP(embed, vision, CLIPTextCfg(width=text_width, heads=text_width // 64), quick_gelu=True)
        text = TextTower(clip, name=name, logit_scale_init=4.6)
        spec = replace(SideSpec.for_dialect("clip", retrieval=True), width=side)
        model = VideoTextModel(create_backbone(clip, precision="fp32"), text, side=spec)
    sizes: dict[str, int] = {}
    for parameter_name, parameter in model.named_trained_parameters():
        part = parameter_name.partition(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    assert sum(sizes.values()) == expected["trainable"]
    assert sizes["side"] + sizes["side_proj"] == expected["side"]
    assert sizes["text"] == expected["text encoder (trainable)"]
    assert sizes["frame_head"] + sizes["logit_scale"] == expected["ln_post + proj + logit_scale"]
    assert sizes["wti"] == expected["wti heads"]
    trained = {id(p) for _, p in model.named_trained_parameters()}
    frozen = sum(p.numel() for p in model.parameters() if id(p) not in trained)
    # our frozen tower keeps its own last norm and projection beside the trained copies
    assert frozen - sizes["frame_head"] == expected["frozen"]


def test_new_parts_start_as_in_the_released_code(parity_dir: Path) -> None:
    stored = json.loads((parity_dir / "init.json").read_text())
    table = next(value for key, value in stored.items() if key.startswith("retrieval CLIP"))
    clip = CLIP(
        512,
        CLIPVisionCfg(image_size=32, patch_size=16, width=64, layers=1, head_width=32),
        CLIPTextCfg(vocab_size=20, width=64, heads=1, layers=1),
    )
    spec = replace(SideSpec.for_dialect("clip", retrieval=True), width=64)
    model = VideoTextModel(
        create_backbone(clip, precision="fp32"), TextTower(clip, name="x", logit_scale_init=1.5), side=spec
    )
    assert not model.side_proj.any()
    assert table["clip.visual.side_proj"]["constant"] == 0
    assert model.wti is not None
    for ours, theirs in (("text_weights", "text_weight_fc"), ("video_weights", "video_weight_fc")):
        for layer, number in (("hidden", 0), ("out", 2)):
            linear = model.wti.get_submodule(f"{ours}.{layer}")
            assert not linear.get_parameter("bias").any()
            assert table[f"{theirs}.{number}.bias"]["constant"] == 0
            assert list(linear.get_parameter("weight").shape) == table[f"{theirs}.{number}.weight"]["shape"]
            # 512 numbers or more: the standard deviation is known to about 7 %
            spread = float(linear.get_parameter("weight").detach().std())
            assert spread == pytest.approx(table[f"{theirs}.{number}.weight"]["std"], rel=0.2)
    assert model.logit_scale.item() == 1.5
