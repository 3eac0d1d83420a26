"""How each family of timm's single-resolution models embeds an image and calls its blocks.

timm's models share no interface below `forward_intermediates`, which returns a list. What differs between families is
only how tokens are made before the first block and what a block is given besides; a row of `FAMILIES` says both.

Source: timm, the `forward_features` of each class; a contract test compares every row with `forward_intermediates`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed_nhwc
from torch import Tensor, nn

# timm's classes declare their parts as Any-like attributes
Model = Any


@dataclass(frozen=True)
class Family:
    """One row: which classes, how images become tokens and a context, how a block is run.

    `any_size`: takes every multiple of its patch size as built (others say so by `dynamic_img_size`, or are fixed).
    `in_blocks`: whether prefix tokens run through the blocks; some models add the class token after them.
    """

    classes: tuple[str, ...]
    embed: Callable[[Model, Tensor], tuple[Tensor, Any]]
    block: Callable[[Model, int, Tensor, Any], Tensor]
    any_size: bool = False
    in_blocks: bool = True
    finish: Callable[[Model, Tensor], Tensor] | None = None


def _vit_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, None]:
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images_ICHW)))), None


def _eva_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, Any]:
    tokens_IAD, rope = model._pos_embed(model.patch_embed(images_ICHW))
    norm_pre = getattr(model, "norm_pre", None)
    return tokens_IAD if norm_pre is None else norm_pre(tokens_IAD), _per_layer(
        rope, mixed=getattr(model, "rope_mixed", False)
    )


def _naflex_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, Any]:
    parts = model._forward_embeds(images_ICHW, patch_coord=None, patch_valid=None, attn_mask=None)
    return parts["patches"], _per_layer(parts["rope_embeds"], mixed=model.rope_is_mixed)


def _beit_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, Tensor | None]:
    tokens_IAD = _with_class(model, model.patch_embed(images_ICHW))
    if model.pos_embed is not None:
        tokens_IAD = tokens_IAD + model.pos_embed
    return tokens_IAD, None if model.rel_pos_bias is None else model.rel_pos_bias()


def _relpos_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, Tensor | None]:
    tokens_IAD = model.patch_embed(images_ICHW)
    if model.cls_token is not None:
        tokens_IAD = _with_class(model, tokens_IAD)
    return tokens_IAD, None if model.shared_rel_pos is None else model.shared_rel_pos.get_bias()


def _rope_grid_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, Any]:
    return model._pos_embed(model.patch_embed(images_ICHW))


def _gemma_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    tokens_IAD, position_ids, _ = model.patch_embed(images_ICHW, None, None)
    # every image has the same positions; one row broadcasts over them
    return tokens_IAD, model.rotary_emb(tokens_IAD, position_ids[:1])


def _cait_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, None]:
    return model.patch_embed(images_ICHW) + model.pos_embed, None


def _xcit_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
    tokens_IAD, (rows, columns) = model.patch_embed(images_ICHW)
    if model.pos_embed is not None:
        positions = model.pos_embed(tokens_IAD.shape[0], rows, columns)
        tokens_IAD = tokens_IAD + positions.flatten(2).transpose(1, 2).to(tokens_IAD.dtype)
    return tokens_IAD, (rows, columns)


def _sam_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
    patches_IYXD = model.patch_embed(images_ICHW)
    grid_YX = (patches_IYXD.shape[1], patches_IYXD.shape[2])
    if model.pos_embed is not None:
        patches_IYXD = patches_IYXD + resample_abs_pos_embed_nhwc(model.pos_embed, list(grid_YX))
    return model.norm_pre(patches_IYXD).flatten(1, 2), grid_YX


def _mixer_embed(model: Model, images_ICHW: Tensor) -> tuple[Tensor, None]:
    return model.stem(images_ICHW), None


def _plain_block(model: Model, index: int, tokens_IAD: Tensor, _: Any) -> Tensor:
    return model.blocks[index](tokens_IAD)


def _rope_block(model: Model, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
    rope = context[index] if isinstance(context, list) else context
    return model.blocks[index](tokens_IAD, rope=rope)


def _naflex_block(model: Model, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
    return (
        _plain_block(model, index, tokens_IAD, None)
        if context is None
        else _rope_block(model, index, tokens_IAD, context)
    )


def _beit_block(model: Model, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
    return model.blocks[index](tokens_IAD, shared_rel_pos_bias=context)


def _relpos_block(model: Model, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
    return model.blocks[index](tokens_IAD, shared_rel_pos=context)


def _gemma_block(model: Model, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
    return model.blocks[index](tokens_IAD, *context)


def _xcit_block(model: Model, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
    return model.blocks[index](tokens_IAD, *context)


def _sam_block(model: Model, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
    return model.blocks[index](tokens_IAD.unflatten(1, context)).flatten(1, 2)


def _normed(model: Model, tokens_IAD: Tensor) -> Tensor:
    return model.norm(tokens_IAD)


def _class_after(model: Model, tokens_IAD: Tensor) -> Tensor:
    return model.norm(model.forward_cls(tokens_IAD))


def _with_class(model: Model, patches_IND: Tensor) -> Tensor:
    return torch.cat([model.cls_token.expand(patches_IND.shape[0], -1, -1), patches_IND], dim=1)


def _per_layer(rope: Any, *, mixed: bool) -> Any:
    return list(rope) if mixed and rope is not None else rope


FAMILIES: tuple[Family, ...] = (
    Family(("VisionTransformer",), _vit_embed, _plain_block, finish=_normed),
    Family(("Eva",), _eva_embed, _rope_block, finish=_normed),
    Family(("NaFlexVit",), _naflex_embed, _naflex_block, any_size=True, finish=_normed),
    Family(("Beit",), _beit_embed, _beit_block, finish=_normed),
    Family(("VisionTransformerRelPos",), _relpos_embed, _relpos_block, finish=_normed),
    Family(("DeepseekVitEncoder", "Qwen3VitEncoder"), _rope_grid_embed, _rope_block, any_size=True),
    Family(("Gemma4VitEncoder",), _gemma_embed, _gemma_block, any_size=True),
    Family(("VisionTransformerSAM",), _sam_embed, _sam_block),
    Family(("Cait",), _cait_embed, _plain_block, in_blocks=False, finish=_class_after),
    Family(("Xcit",), _xcit_embed, _xcit_block, any_size=True, in_blocks=False, finish=_class_after),
    Family(("MlpMixer",), _mixer_embed, _plain_block, finish=_normed),
)


def family_of(model: nn.Module) -> Family | None:
    """The row for a model of timm, or for one of another origin that is built like timm's VisionTransformer."""
    names = {base.__name__ for base in type(model).__mro__ if base.__module__.startswith("timm.")}
    for family in FAMILIES:
        if names.intersection(family.classes):
            return family
    parts = ("patch_embed", "_pos_embed", "patch_drop", "norm_pre", "blocks", "norm", "num_prefix_tokens", "cls_token")
    return FAMILIES[0] if all(hasattr(model, part) for part in parts) else None
