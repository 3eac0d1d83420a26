"""Which of our names holds which of the released code's: one table, read in both directions.

`k` counts side blocks, not frozen blocks. A tensor of ours is made of one of theirs, or, where EVA keeps query, key and
value apart, of three stacked ones; unit axes of their convolutions are dropped.

Source: the released code's state dicts, described in the reference values' README, "Key names".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

PARAMETERS = ("weight", "bias")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class OfficialLayout:
    """Where a released checkpoint keeps things. `prefix` stands before `visual.` (`clip.` in retrieval)."""

    dialect: Literal["clip", "eva"]
    retrieval: bool

    @property
    def prefix(self) -> str:
        """What stands before `visual.`."""
        return "clip." if self.retrieval else ""

    @property
    def visual(self) -> str:
        """Prefix of the image tower."""
        return f"{self.prefix}visual."

    @property
    def text(self) -> str:
        """Prefix of the text tower (retrieval)."""
        return self.prefix if self.dialect == "clip" else f"{self.prefix}text."

    @property
    def side_root(self) -> str:
        """Prefix of projections, positions and side blocks."""
        return f"{self.visual}transformer." if self.dialect == "clip" else self.visual

    @property
    def side_blocks(self) -> str:
        """Prefix of the side blocks."""
        return f"{self.side_root}{'side_transformer' if self.dialect == 'clip' else 'side_blocks'}."


def side_names(layout: OfficialLayout, num_blocks: int, *, final_norm: bool) -> dict[str, tuple[str, ...]]:
    """Our name of each trained tensor of the side network (`side.` in front) -> the released names it is made of."""
    names: dict[str, tuple[str, ...]] = {
        "side.position": (f"{layout.side_root}side_spatial_position_embeddings",),
    }
    _add(names, "side.stem", f"{layout.visual}side_conv1", PARAMETERS)
    _add(names, "side.stem.norm", f"{layout.visual}side_pre_bn3d", PARAMETERS + BUFFERS)
    if final_norm:
        _add(names, "side.norm", f"{layout.visual}side_post_bn", PARAMETERS + BUFFERS)
    for k in range(num_blocks):
        _add(names, f"side.projections.{k}.norm", f"{layout.side_root}side_lns.{k}", PARAMETERS)
        _add(names, f"side.projections.{k}.linear", f"{layout.side_root}side_linears.{k}", PARAMETERS)
        _add_block(names, layout, k)
    return names


def retrieval_names(
    layout: OfficialLayout, num_blocks: int, *, text: nn.Module, wti: bool
) -> dict[str, tuple[str, ...]]:
    """Our name of each trained tensor of a `VideoTextModel` with this text tower -> the released names of its parts."""
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
        names[f"text.{inner}"] = (f"{layout.text}{inner}",)
    return names


def _add_block(names: dict[str, tuple[str, ...]], layout: OfficialLayout, k: int) -> None:
    ours, theirs = f"side.blocks.{k}", f"{layout.side_blocks}{k}"
    renamed_convs = layout.retrieval and layout.dialect == "clip"
    convs = ("pw_conv1", "dw_conv1", "pw_conv2") if renamed_convs else ("conv.0", "conv.1", "conv.2")
    norms = ("norm1", "norm2") if renamed_convs else ("bn_1", "bn_2")
    mlp = ("mlp.fc1", "mlp.fc2") if layout.dialect == "clip" else ("mlp.0", "mlp.2")
    for our_part, their_part in zip(("pointwise_in", "depthwise", "pointwise_out"), convs, strict=True):
        _add(names, f"{ours}.temporal.{our_part}", f"{theirs}.{their_part}", PARAMETERS)
    for our_part, their_part in zip(("temporal_norm", "mlp_norm"), norms, strict=True):
        _add(names, f"{ours}.{our_part}", f"{theirs}.{their_part}", PARAMETERS + BUFFERS)
    for our_part, their_part in zip(("mlp.fc1", "mlp.fc2"), mlp, strict=True):
        _add(names, f"{ours}.{our_part}", f"{theirs}.{their_part}", PARAMETERS)
    _add(names, f"{ours}.attention_norm", f"{theirs}.ln_1", PARAMETERS)
    if layout.dialect == "clip":
        for leaf in PARAMETERS:
            names[f"{ours}.attention.qkv.{leaf}"] = (f"{theirs}.attn.in_proj_{leaf}",)
        _add(names, f"{ours}.attention.out", f"{theirs}.attn.out_proj", PARAMETERS)
    else:
        for leaf in PARAMETERS:
            names[f"{ours}.attention.qkv.{leaf}"] = tuple(f"{theirs}.attn.{part}_proj.{leaf}" for part in "qkv")
        _add(names, f"{ours}.attention.out", f"{theirs}.attn.proj", PARAMETERS)


def _add(names: dict[str, tuple[str, ...]], ours: str, theirs: str, leaves: tuple[str, ...]) -> None:
    for leaf in leaves:
        names[f"{ours}.{leaf}"] = (f"{theirs}.{leaf}",)
