"""Every image tower that open_clip lists keeps the promises of `ImageTrunk`, or is refused with a reason."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import nn

from contract.listing import randomise, signature, small_open_clip, small_towers
from side4video.backbones.base import FrozenBackbone
from side4video.backbones.build_open_clip import open_clip_tower, tower_trunk
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.backbones.timm_vit import TimmViT
from side4video.backbones.trunk import ImageTrunk
from side4video.errors import BackboneError

CLIPS, FRAMES = 2, 3
GRID, OTHER_GRID = (4, 4), (7, 5)
SIZES = ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "attn_pooler_heads")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm")


@cache
def on_meta() -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Small towers by architecture, and what was said of those that are refused."""
    taken: dict[str, nn.Module] = {}
    refused: dict[str, str] = {}
    by_config: dict[str, nn.Module] = {}
    with small_towers(), torch.device("meta"):
        for architecture in open_clip.list_models():
            config = small_open_clip(architecture)
            key = json.dumps([config["vision_cfg"], config["embed_dim"], config.get("quick_gelu")], sort_keys=True)
            tower = by_config.setdefault(key, open_clip_tower(config, {})) if key not in by_config else by_config[key]
            try:
                tower_trunk(tower, label=architecture)
                taken[architecture] = tower
            except BackboneError as error:
                refused[architecture] = str(error)
    return taken, refused


def test_towers_without_patch_tokens_are_refused_with_what_works() -> None:
    taken, refused = on_meta()
    print(f"\nopen_clip: {len(taken)} towers taken; refused: {', '.join(refused)}")
    assert len(taken) >= 100
    assert len(taken) + len(refused) == len(open_clip.list_models())
    assert {"RN50", "convnext_base", "MobileCLIP-S1"} <= set(refused)
    for architecture, message in refused.items():
        assert f"'{architecture}'" in message or architecture in message
        assert "what works" in message


def test_the_papers_backbones_are_taken() -> None:
    taken, _ = on_meta()
    named = "ViT-B-32 ViT-B-16 ViT-L-14 ViT-L-14-336 ViT-H-14 ViT-g-14 ViT-bigG-14 EVA02-B-16 EVA02-L-14 EVA02-E-14"
    assert {*named.split(), "EVA02-E-14-plus"} <= set(taken)
    post_norm = {name for name, tower in taken.items() if tower_trunk(tower, label=name).post_norm}
    assert post_norm == {"EVA02-E-14", "EVA02-E-14-plus"}


def test_every_tower_has_the_promised_shapes() -> None:
    failures: dict[str, str] = {}
    odd: set[str] = set()
    for name, tower in on_meta()[0].items():
        trunk = tower_trunk(tower, label=name)
        assert isinstance(trunk, ImageTrunk)
        height, width = trunk.preprocessing.image_size
        rows, columns = trunk.grid((height, width))
        layers = list(
            FrozenBackbone(trunk, name=name).stream(
                torch.empty(CLIPS, FRAMES, 3, height, width, device="meta"), range(trunk.depth)
            )
        )
        shape = (CLIPS, FRAMES, trunk.num_prefix + rows * columns, trunk.width)
        shapes = {tuple(layer.tokens_BTAD.shape) for layer in layers}
        if shapes != {shape} or len(layers) != trunk.depth:
            failures[name] = f"expected {shape}, got {shapes}"
        configured = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
        if (height, width) != (configured, configured):
            odd.add(name)
    assert not failures
    assert odd <= {"ViTamin-XL-384"}  # its file in open_clip says 256, but the tower that it builds takes 384 only


def test_streaming_and_embedding_equal_the_librarys_own() -> None:
    own = {name for name, tower in on_meta()[0].items() if isinstance(tower, VisionTransformer)}
    kinds: dict[object, str] = {}
    for name in sorted(own):
        vision = open_clip.get_model_config(name)["vision_cfg"]
        flags = json.dumps({key: value for key, value in vision.items() if key not in SIZES}, sort_keys=True)
        kinds.setdefault((flags, open_clip.get_model_config(name).get("quick_gelu")), name)
    assert len(kinds) >= 6
    failures = {name: reason for name in kinds.values() if (reason := _compare_own(name))}
    assert not failures


def _compare_own(name: str) -> str:
    vision = {"width": 48, "head_width": 12, "patch_size": 8, "image_size": 8 * GRID[0], "attn_pooler_heads": 4}
    config = small_open_clip(name, **vision)
    config["embed_dim"] = 24
    tower = open_clip_tower(config, {}).eval()
    assert isinstance(tower, VisionTransformer)
    randomise(tower)
    backbone = FrozenBackbone(OpenClipViT(tower), name=name)
    clip = torch.randn(CLIPS, FRAMES, 3, 8 * GRID[0], 8 * GRID[1], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected: dict[str, Any] = tower.forward_intermediates(clip.flatten(0, 1), output_extra_tokens=True)
        embedding = tower(clip.flatten(0, 1))
    reasons: list[str] = []
    for index, layer in enumerate(backbone.stream(clip, range(backbone.depth))):
        ours = layer.patches_BTND.flatten(0, 1).transpose(1, 2).unflatten(2, GRID)
        if not torch.equal(ours, expected["image_intermediates"][index]):
            reasons.append(f"patches differ at layer {index}")
        if not torch.equal(layer.class_BTD.flatten(0, 1), expected["image_intermediates_prefix"][index][:, 0]):
            reasons.append(f"class token differs at layer {index}")
    pooled = embedding[0] if isinstance(embedding, tuple) else embedding
    if not torch.equal(backbone.features(clip).flatten(0, 1), pooled):
        reasons.append("embedding differs")
    other = torch.randn(CLIPS, FRAMES, 3, 8 * OTHER_GRID[0], 8 * OTHER_GRID[1])
    if [layer.grid_YX for layer in backbone.stream(other, [0])] != [OTHER_GRID]:
        reasons.append("another size")
    return "; ".join(reasons)


def test_timm_towers_embed_as_the_library_does() -> None:
    kinds: dict[object, tuple[float, str]] = {}
    for name, tower in on_meta()[0].items():
        trunk = tower_trunk(tower, label=name)
        if isinstance(trunk, TimmViT):
            # their trunks are compared in the timm contract; here it is the joint between trunk and head that counts
            key = type(trunk.model), trunk.model.global_pool, signature(tower.head)[:2]
            cost = sum(p.numel() for p in tower.parameters()) * float(trunk.preprocessing.image_size[0]) ** 2
            kinds[key] = min(kinds.get(key, (cost, name)), (cost, name))
    assert len(kinds) >= 4
    failures = {name: "embedding differs" for _, name in kinds.values() if not _embeds_equal(name)}
    assert not failures


def _embeds_equal(name: str) -> bool:
    with small_towers():
        tower = open_clip_tower(small_open_clip(name), {}).eval()
    randomise(tower)
    backbone = FrozenBackbone(tower_trunk(tower, label=name), name=name)
    side = backbone.preprocessing.image_size[0]
    clip = torch.randn(1, FRAMES, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tower(clip.flatten(0, 1))
    return torch.equal(backbone.features(clip).flatten(0, 1), expected)
