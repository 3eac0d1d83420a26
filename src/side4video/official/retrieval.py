"""Builds a text-video model, both towers included, from a released retrieval checkpoint (CLIP or EVA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import open_clip.transformer as open_clip_transformer
from torch import Tensor, nn

from side4video.backbones.text import TextTower
from side4video.errors import CheckpointError
from side4video.official.names import PARAMETERS, OfficialLayout, side_names
from side4video.official.parts import count_blocks, layout_of, need, our_state, resolve_side_blocks, temporal_kernel
from side4video.official.trunk import build_clip_trunk, build_eva_trunk
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import VideoTextModel

TEXT_HEAD_WIDTH = 64


def load_retrieval(
    state: Mapping[str, Tensor],
    *,
    num_heads: int | None,
    side_blocks: Sequence[int] | None,
    text_heads: int | None,
) -> VideoTextModel:
    """The model of a flat float32 state dict, in eval mode. `from_official` explains the hints.

    Raises:
        CheckpointError: keys left over or missing, shapes or hints that do not fit.
    """
    layout = layout_of(state, task="retrieval")
    num_blocks = count_blocks(state, layout.side_blocks)
    text = _text_tower(state, layout, text_heads)
    has_wti = "text_weight_fc.0.weight" in state
    names = retrieval_names(layout, num_blocks, text=text, wti=has_wti)
    ours = {key for keys in names.values() for key in keys}
    head_keys = {key for name, keys in names.items() if name.startswith("frame_head.") for key in keys}
    trunk_state = {
        key.removeprefix(layout.visual): value
        for key, value in state.items()
        if key.startswith(layout.visual) and key not in ours - head_keys
    }
    unknown = sorted(key for key in state if not key.startswith(layout.visual) and key not in ours)
    if unknown:
        raise CheckpointError(f"the checkpoint has {len(unknown)} keys that no released model has: {unknown[:5]}")
    if layout.dialect == "clip":
        depth = count_blocks(state, f"{layout.visual}transformer.resblocks.")
        backbone = build_clip_trunk(trunk_state, depth=depth, num_heads=num_heads)
    else:
        depth = count_blocks(state, f"{layout.visual}blocks.")
        backbone = build_eva_trunk(trunk_state, depth=depth, num_heads=num_heads, with_head=True)
    spec = replace(
        SideSpec.for_dialect(layout.dialect, retrieval=True),
        width=need(state, f"{layout.visual}side_conv1.bias").shape[0],
        taps=resolve_side_blocks(side_blocks, num_blocks, depth),
        temporal_kernel=temporal_kernel(state, names),
    )
    model = VideoTextModel(
        backbone,
        text,
        side=spec,
        interaction="wti" if has_wti else "mean",
        interaction_width=need(state, "text_weight_fc.0.weight").shape[0] if has_wti else None,
        # with CLIP the released code overwrites the video mask; mean pooling never looks at it
        ignore_video_mask=("wti", "mean") if layout.dialect == "clip" else ("mean",),
    )
    model.load_trainable_state(our_state(state, names, model.trainable_state()))
    return model.float().eval()


def retrieval_names(
    layout: OfficialLayout, num_blocks: int, *, text: TextTower, wti: bool
) -> dict[str, tuple[str, ...]]:
    """Our name of every trained tensor of a `VideoTextModel` -> the released names it is made of."""
    names = side_names(layout, num_blocks, final_norm=True)
    names["side_proj"] = (f"{layout.visual}side_proj",)
    names["logit_scale"] = (f"{layout.prefix}logit_scale",)
    norm = "ln_post" if layout.dialect == "clip" else "norm"
    for leaf in PARAMETERS:
        names[f"frame_head.norm.{leaf}"] = (f"{layout.visual}{norm}.{leaf}",)
        if layout.dialect == "eva":
            names[f"frame_head.projection.{leaf}"] = (f"{layout.visual}head.{leaf}",)
        for ours, theirs in (("text_weights", "text_weight_fc"), ("video_weights", "video_weight_fc")) if wti else ():
            names[f"wti.{ours}.hidden.{leaf}"] = (f"{theirs}.0.{leaf}",)
            names[f"wti.{ours}.out.{leaf}"] = (f"{theirs}.2.{leaf}",)
    if layout.dialect == "clip":
        names["frame_head.projection.matrix"] = (f"{layout.visual}proj",)
    for inner in text.state_dict():
        names[f"text.{inner}"] = (f"{_text_prefix(layout)}{inner}",)
    return names


def _text_prefix(layout: OfficialLayout) -> str:
    return layout.prefix if layout.dialect == "clip" else f"{layout.prefix}text."


def _text_tower(state: Mapping[str, Tensor], layout: OfficialLayout, text_heads: int | None) -> TextTower:
    """A text tower of the checkpoint's shapes, not yet with its weights."""
    prefix = _text_prefix(layout)
    depth = count_blocks(state, f"{prefix}transformer.resblocks.")
    vocab_size, width = need(state, f"{prefix}token_embedding.weight").shape
    heads = text_heads if text_heads is not None else max(1, width // TEXT_HEAD_WIDTH)
    if heads < 1 or width % heads:
        raise CheckpointError(f"text_heads must divide the text width {width}; got {heads}")
    tower = open_clip_transformer.TextTransformer(
        context_length=need(state, f"{prefix}positional_embedding").shape[0],
        vocab_size=vocab_size,
        width=width,
        heads=heads,
        layers=depth,
        mlp_ratio=need(state, f"{prefix}transformer.resblocks.0.mlp.c_fc.bias").shape[0] / width,
        output_dim=need(state, f"{prefix}text_projection").shape[1],
        act_layer=open_clip_transformer.QuickGELU if layout.dialect == "clip" else nn.GELU,
    )
    return TextTower(tower, name=f"released-{layout.dialect}", logit_scale_init=0.0)
