"""Frozen image towers of released checkpoints, built from the shapes of their weights.

They are the libraries' own towers (open_clip's vision transformer for CLIP, timm's EVA for EVA02-CLIP-bigE), so a model
from a checkpoint and a model from the catalogue run the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import open_clip.transformer as open_clip_transformer
import timm.models.eva as timm_eva
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from side4video.backbones import FrozenBackbone, Preprocessing, create_backbone
from side4video.backbones.timm_vit import TimmViT
from side4video.errors import CheckpointError

CLIP_HEAD_WIDTH = 64
EVA_HEAD_WIDTHS = (112, 64)
EVA_NORM_EPS = 1e-6
# after the blocks: absent from recognition checkpoints, and not needed there
CLIP_AFTER_BLOCKS = {"ln_post.weight", "ln_post.bias", "proj"}
EVA_AFTER_BLOCKS = {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def build_clip_trunk(state: Mapping[str, Tensor], *, depth: int, num_heads: int | None) -> FrozenBackbone:
    """OpenAI's CLIP image tower (pre-norm, QuickGELU). `state` has the tower's own names.

    Raises:
        CheckpointError: names or shapes that are not such a tower's, or heads that do not divide the width.
    """
    width, patch_size = _get(state, "conv1.weight").shape[0], _get(state, "conv1.weight").shape[-1]
    image_size = patch_size * _grid_side(_get(state, "positional_embedding").shape[0] - 1)
    heads = _heads(width, num_heads, (CLIP_HEAD_WIDTH,))
    tower = open_clip_transformer.VisionTransformer(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        layers=depth,
        heads=heads,
        mlp_ratio=_get(state, "transformer.resblocks.0.mlp.c_fc.bias").shape[0] / width,
        output_dim=state["proj"].shape[1] if "proj" in state else width,
        act_layer=open_clip_transformer.QuickGELU,
    )
    _load(tower, state, may_lack=CLIP_AFTER_BLOCKS)
    return create_backbone(tower, precision="fp32")


def build_eva_trunk(
    state: Mapping[str, Tensor], *, depth: int, num_heads: int | None, with_head: bool = False
) -> FrozenBackbone:
    """EVA02-CLIP-bigE's image tower (post-norm, erf GELU, absolute positions, no bias on the keys).

    `with_head`: `finish` projects to the joint space, as retrieval needs it.

    Raises:
        CheckpointError: as `build_clip_trunk`.
    """
    width, patch_size = (
        _get(state, "patch_embed.proj.weight").shape[0],
        _get(state, "patch_embed.proj.weight").shape[-1],
    )
    image_size = patch_size * _grid_side(_get(state, "pos_embed").shape[1] - 1)
    tower = timm_eva.Eva(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=_heads(width, num_heads, EVA_HEAD_WIDTHS),
        mlp_ratio=_get(state, "blocks.0.mlp.fc1.bias").shape[0] / width,
        qkv_bias=True,
        use_post_norm=True,
        use_rot_pos_emb=False,
        norm_layer=partial(nn.LayerNorm, eps=EVA_NORM_EPS),
        global_pool="token",
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else width,
    )
    _load(tower, state, may_lack=EVA_AFTER_BLOCKS)
    pixels = Preprocessing(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, (image_size, image_size), "bicubic")
    trunk = TimmViT(tower, projection=nn.Identity() if with_head else None, preprocessing=pixels)
    return create_backbone(trunk, precision="fp32")


def _load(tower: nn.Module, state: Mapping[str, Tensor], *, may_lack: set[str]) -> None:
    own = tower.state_dict()
    missing, unknown = sorted(own.keys() - state.keys() - may_lack), sorted(state.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"the frozen tower does not fit: {len(missing)} keys missing {missing[:3]}, {len(unknown)} unknown "
            f"{unknown[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )
    with torch.no_grad():
        tower.load_state_dict({**own, **state}, strict=True)


def _heads(width: int, num_heads: int | None, head_widths: tuple[int, ...]) -> int:
    if num_heads is not None:
        if num_heads < 1 or width % num_heads:
            raise CheckpointError(f"num_heads must divide the frozen width {width}; got {num_heads}")
        return num_heads
    for head_width in head_widths:
        if width % head_width == 0:
            return width // head_width
    raise CheckpointError(f"heads of {head_widths} channels do not divide the frozen width {width}: give num_heads=")


def _grid_side(num_patches: int) -> int:
    side = round(num_patches**0.5)
    if side * side != num_patches:
        raise CheckpointError(f"the frozen tower's patch grid must be square; got {num_patches} patches")
    return side


def _get(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"the frozen tower lacks {key}")
    return state[key]
