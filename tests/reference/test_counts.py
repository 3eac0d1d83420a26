"""Parameters and multiply-adds of the full-size models, counted on the meta device, against the stored numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from timm.models.eva import Eva
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from side4video.backbones import create_backbone
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier

CLIP = {
    "ViT-B/32 side 320": (768, 12, 32, 320),
    "ViT-B/16 side 320": (768, 12, 16, 320),
    "ViT-L/14 side 512": (1024, 24, 14, 512),
}
EVA = "EVA02-CLIP-bigE-14 side 576"


def clip_tower(width: int, depth: int, patch: int) -> nn.Module:
    return VisionTransformer(
        image_size=224,
        patch_size=patch,
        width=width,
        layers=depth,
        heads=width // 64,
        mlp_ratio=4.0,
        output_dim=512,
        act_layer=QuickGELU,
    )


def eva_tower() -> nn.Module:
    return Eva(
        img_size=224,
        patch_size=14,
        embed_dim=1792,
        depth=64,
        num_heads=16,
        mlp_ratio=15360 / 1792,
        use_post_norm=True,
        use_rot_pos_emb=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        global_pool="token",
        num_classes=1024,
    )


def build(tower: nn.Module, spec: SideSpec, num_classes: int = 400) -> VideoClassifier:
    return VideoClassifier(create_backbone(tower, precision="fp32"), num_classes, side=spec)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="session")
def counts(parity_dir: Path) -> dict:
    return json.loads((parity_dir / "counts.json").read_text())


@pytest.mark.parametrize("name", [*CLIP, EVA])
def test_full_size_models(counts: dict, name: str) -> None:
    stored = counts["recognition"][name]
    with torch.device("meta"):
        if name == EVA:
            model = build(eva_tower(), SideSpec.for_dialect("eva"))
        else:
            width, depth, patch, side = CLIP[name]
            model = build(clip_tower(width, depth, patch), replace(SideSpec.for_dialect("clip"), width=side))
        clip_BTCHW = torch.empty(1, 8, 3, 224, 224)
    assert count(model.side) == stored["trainable_without_fc"]
    assert count(model.head) == stored["fc"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == stored["trainable"]
    assert count(model.side.blocks) == stored["parts"]["side blocks"]
    assert count(model.side.projections) == stored["parts"]["per-layer projections (LayerNorm + Linear)"]
    with FlopCounterMode(display=False) as counter:
        model.eval()(clip_BTCHW)
    assert counter.get_total_flops() == pytest.approx(stored["flops_total"], rel=0.01)


def test_light_models_and_layer_subsets(counts: dict) -> None:
    subsets = {"every layer": "all", "every second layer": "every_second"}
    checked = 0
    for name, rows in counts["layer_subsets"].items():
        (width, depth, patch) = (768, 12, 16) if "B/16" in name else (1024, 24, 14)
        with torch.device("meta"):
            tower = clip_tower(width, depth, patch)
        for row, expected in rows.items():
            taps = subsets.get(row) or f"top:{depth - int(row.split('blocks ')[1].split('..')[0])}"
            with torch.device("meta"):
                model = build(tower, replace(SideSpec.for_dialect("clip"), width=int(name.split()[-1]), taps=taps))
            assert count(model.side) == expected, (name, row)
            checked += 1
    assert checked == 25
