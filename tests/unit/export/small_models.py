"""Models of one frozen block, one of each family that the libraries have, with numbers in every parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import open_clip
import timm
import torch
from torch import nn

from side4video.backbones import create_backbone
from side4video.backbones.base import FrozenBackbone
from side4video.backbones.text import text_tower_of
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

SIZE, NUM_FRAMES, NUM_CLASSES = 32, 4, 5
CLIP = SideSpec.for_dialect("clip")
EVA = SideSpec.for_dialect("eva")
SMALL = {"width": 16, "num_heads": 2, "taps": "all"}


def own_clip() -> open_clip.CLIP:
    """open_clip's own transformers, images of 2 x 2 patches."""
    vision = open_clip.CLIPVisionCfg(image_size=SIZE, patch_size=16, width=24, layers=1, head_width=12)
    text = open_clip.CLIPTextCfg(context_length=9, vocab_size=40, width=20, heads=2, layers=1)
    return open_clip.CLIP(14, vision, text)


def timm_backbone(name: str, size: int = SIZE) -> Callable[[], FrozenBackbone]:
    """A maker of a timm model of one block."""

    def make() -> FrozenBackbone:
        model = timm.create_model(name, depth=1, embed_dim=24, num_heads=2, img_size=size, num_classes=0)
        return create_backbone(model)

    return make


FAMILIES: dict[str, tuple[Callable[[], FrozenBackbone], SideSpec]] = {
    "open_clip": (lambda: create_backbone(own_clip().visual), CLIP),
    "timm-clip": (
        timm_backbone("vit_base_patch16_clip_224"),
        replace(CLIP, representation="class", temporal="attention", position_on_class=True),
    ),
    "eva02-rope": (timm_backbone("eva02_base_patch16_clip_224"), EVA),
    "dinov2-registers": (
        timm_backbone("vit_small_patch14_reg4_dinov2", 28),
        replace(EVA, representation="extra", norm="layer", final_norm=True),
    ),
    "siglip-no-class": (timm_backbone("vit_base_patch16_siglip_224"), replace(CLIP, stem=False, shift=False)),
}


def make_classifier(family: str) -> VideoClassifier:
    """A classifier of random numbers, batch norms' statistics included."""
    torch.manual_seed(3)
    make, spec = FAMILIES[family]
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    model = VideoClassifier(make(), NUM_CLASSES, side=replace(spec, **SMALL), class_names=names)
    return _randomised(model).eval()


def make_text_model() -> VideoTextModel:
    """A retrieval model of random numbers."""
    torch.manual_seed(4)
    clip = own_clip()
    backbone = create_backbone(clip.visual)
    text = text_tower_of(clip, name="small")
    model = VideoTextModel(backbone, text, side=replace(CLIP, **SMALL), interaction="wti")
    return _randomised(model).eval()


def _randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data = 0.2 * torch.randn(value.shape, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.abs_().add_(0.5)
    return model
