"""Towers of the authors' checkpoints, built from the shapes of their weights: CLIP's, EVA02-CLIP's, and text towers.

They are the libraries' own towers (open_clip's transformers, timm's EVA), so a model from a checkpoint and a model from
the catalogue run the same code. As a backbone, `released:clip/HEADS` or `released:eva/HEADS` (with `/TEXT_HEADS` where
there is a text tower) names the file that `side4video convert --keep-backbone` wrote beside a run: `visual.*` is the
image tower, `text.*` the text tower, and shapes say all but the number of heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import open_clip.transformer as open_clip_transformer
import timm.models.eva as timm_eva
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.backbones.text import WHAT_WORKS, TextTower
from side4video.backbones.timm_vit import TimmViT
from side4video.backbones.trunk import Preprocessing
from side4video.backbones.weights import read_weights
from side4video.errors import BackboneError, CheckpointError

Dialect = Literal["clip", "eva"]
LIBRARY = "released"
VISUAL, TEXT = "visual.", "text."
CLIP_HEAD_WIDTH = 64
EVA_HEAD_WIDTHS = (112, 64)
TEXT_HEAD_WIDTH = 64
EVA_NORM_EPS = 1e-6
# after the blocks: absent from recognition checkpoints, and not needed there
AFTER_BLOCKS = {
    "clip": frozenset({"ln_post.weight", "ln_post.bias", "proj"}),
    "eva": frozenset({"norm.weight", "norm.bias", "head.weight", "head.bias"}),
}
BLOCKS = {"clip": "transformer.resblocks.", "eva": "blocks."}
TEXT_BLOCKS = "transformer.resblocks."
_NAME = re.compile(r"released:(clip|eva)/(\d{1,3})(?:/(\d{1,3}))?")


@dataclass(frozen=True)
class ReleasedName:
    """What the name of such a backbone says; `text_heads` is None where there is no text tower."""

    dialect: Dialect
    heads: int
    text_heads: int | None = None

    def __str__(self) -> str:
        text = "" if self.text_heads is None else f"/{self.text_heads}"
        return f"{LIBRARY}:{self.dialect}/{self.heads}{text}"

    @classmethod
    def parse(cls, name: str) -> ReleasedName:
        """The parts of a name.

        Raises:
            BackboneError: another form.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise BackboneError(
                f"backbone {name!r}: must be released:clip/HEADS or released:eva/HEADS, with /TEXT_HEADS where there "
                "is a text tower, as `side4video convert --keep-backbone` writes it"
            )
        return cls("clip" if found[1] == "clip" else "eva", int(found[2]), int(found[3]) if found[3] else None)


def build_released(name: str, *, weights: str | None) -> nn.Module:
    """The trunk called `name`, from its file.

    Raises:
        BackboneError: another form of name, or no file.
        CheckpointError: a file that cannot be read or does not fit.
    """
    parsed = ReleasedName.parse(name)
    state = _part(_read(name, weights), VISUAL)
    return image_trunk(state, parsed.dialect, heads=parsed.heads)


def build_released_text(name: str, *, weights: str | None) -> TextTower:
    """The text tower beside it, with its weights.

    Raises:
        BackboneError: another form of name, no file, or none with a text tower.
        CheckpointError: a file that cannot be read or does not fit.
    """
    parsed = ReleasedName.parse(name)
    content = _read(name, weights)
    state = _part(content, TEXT)
    if parsed.text_heads is None or not state:
        raise BackboneError(f"backbone {name!r} has no text tower; {WHAT_WORKS}")
    scale = float(content["logit_scale"]) if "logit_scale" in content else 0.0
    tower = text_tower(state, parsed.dialect, heads=parsed.text_heads, logit_scale_init=scale)
    _check(tower, state, may_lack=frozenset())
    tower.load_state_dict(state, strict=True)
    return tower.eval()


def image_trunk(state: Mapping[str, Tensor], dialect: Dialect, *, heads: int | None = None) -> OpenClipViT | TimmViT:
    """The image tower of these weights, under the tower's own names. What comes after the blocks may be missing: norms
    then do nothing and projections give zero. EVA's tower projects to the joint space where its head is there.

    Raises:
        CheckpointError: names or shapes that are not such a tower's, or heads that do not divide the width.
    """
    trunk = clip_shell(state, heads=heads) if dialect == "clip" else eva_shell(state, heads=heads)
    tower = inner_tower(trunk)
    _check(tower, state, may_lack=AFTER_BLOCKS[dialect])
    own = tower.state_dict()
    filled = {name: torch.ones_like(own[name]) if "norm.weight" in name or "ln_post.weight" in name
              else torch.zeros_like(own[name]) for name in own.keys() - state.keys()}  # fmt: skip
    with torch.no_grad():
        tower.load_state_dict({**state, **filled}, strict=True)
    return trunk


def inner_tower(trunk: nn.Module) -> nn.Module:
    """The library's own module inside an adapter: its names are the checkpoint's.

    Raises:
        CheckpointError: another kind of image model, which no released checkpoint has.
    """
    if isinstance(trunk, OpenClipViT):
        return trunk.visual
    if isinstance(trunk, TimmViT) and trunk.post_norm:
        tower: nn.Module = trunk.model
        return tower
    raise CheckpointError(
        f"the released code has CLIP's image tower and EVA02-CLIP's post-norm one; got {type(trunk).__name__} "
        "around another model"
    )


def clip_shell(state: Mapping[str, Tensor], *, heads: int | None) -> OpenClipViT:
    """OpenAI's CLIP image tower (pre-norm, QuickGELU) of these shapes, not yet with these weights.

    Raises:
        CheckpointError: as `image_trunk`.
    """
    conv = _get(state, "conv1.weight")
    width, patch_size = conv.shape[0], conv.shape[-1]
    tower = open_clip_transformer.VisionTransformer(
        image_size=patch_size * _grid_side(_get(state, "positional_embedding").shape[0] - 1),
        patch_size=patch_size,
        width=width,
        layers=count_blocks(state, BLOCKS["clip"]),
        heads=_heads(width, heads, (CLIP_HEAD_WIDTH,)),
        mlp_ratio=_get(state, "transformer.resblocks.0.mlp.c_fc.bias").shape[0] / width,
        output_dim=state["proj"].shape[1] if "proj" in state else width,
        act_layer=open_clip_transformer.QuickGELU,
    )
    return OpenClipViT(tower)


def eva_shell(state: Mapping[str, Tensor], *, heads: int | None) -> TimmViT:
    """EVA02-CLIP-bigE's image tower of these shapes (post-norm, erf GELU, absolute positions, no bias on the keys), not
    yet with these weights.

    Raises:
        CheckpointError: as `image_trunk`.
    """
    patches = _get(state, "patch_embed.proj.weight")
    width, patch_size = patches.shape[0], patches.shape[-1]
    image_size = patch_size * _grid_side(_get(state, "pos_embed").shape[1] - 1)
    tower = timm_eva.Eva(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=count_blocks(state, BLOCKS["eva"]),
        num_heads=_heads(width, heads, EVA_HEAD_WIDTHS),
        mlp_ratio=_get(state, "blocks.0.mlp.fc1.bias").shape[0] / width,
        qkv_bias=True,
        use_post_norm=True,
        use_rot_pos_emb=False,
        norm_layer=partial(nn.LayerNorm, eps=EVA_NORM_EPS),
        global_pool="token",
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else width,
    )
    pixels = Preprocessing(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, (image_size, image_size), "bicubic")
    projection = nn.Identity() if "head.weight" in state else None
    return TimmViT(tower, projection=projection, preprocessing=pixels)


def text_tower(
    state: Mapping[str, Tensor], dialect: Dialect, *, heads: int | None, logit_scale_init: float = 0.0
) -> TextTower:
    """A text tower of these shapes, not yet with these weights.

    Raises:
        CheckpointError: a name that is missing, or heads that do not divide the width.
    """
    depth = count_blocks(state, TEXT_BLOCKS)
    vocab_size, width = _get(state, "token_embedding.weight").shape
    wanted = heads if heads is not None else max(1, width // TEXT_HEAD_WIDTH)
    if wanted < 1 or width % wanted:
        raise CheckpointError(f"text_heads must divide the text width {width}; got {wanted}")
    tower = open_clip_transformer.TextTransformer(
        context_length=_get(state, "positional_embedding").shape[0],
        vocab_size=vocab_size,
        width=width,
        heads=wanted,
        layers=depth,
        mlp_ratio=_get(state, "transformer.resblocks.0.mlp.c_fc.bias").shape[0] / width,
        output_dim=_get(state, "text_projection").shape[1],
        act_layer=open_clip_transformer.QuickGELU if dialect == "clip" else nn.GELU,
    )
    return TextTower(tower, name=f"released-{dialect}", logit_scale_init=logit_scale_init)


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks there are under a prefix; they must be numbered 0, 1, 2, ...

    Raises:
        CheckpointError: none, or gaps between them.
    """
    found = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    numbers = sorted(int(number) for number in found if number.isdecimal())
    if not numbers or numbers != list(range(len(numbers))):
        raise CheckpointError(f"the checkpoint's blocks {prefix}N must be numbered 0, 1, 2, ...; got {numbers}")
    return len(numbers)


def _read(name: str, weights: str | None) -> dict[str, Tensor]:
    if weights is None:
        raise BackboneError(f"backbone {name!r} needs weights=PATH, the file that `convert --keep-backbone` wrote")
    return {key: value.float() if value.is_floating_point() else value for key, value in read_weights(weights).items()}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _check(tower: nn.Module, state: Mapping[str, Tensor], *, may_lack: frozenset[str]) -> None:
    own = tower.state_dict()
    missing, unknown = sorted(own.keys() - state.keys() - may_lack), sorted(state.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"the frozen tower does not fit: {len(missing)} keys missing {missing[:3]}, {len(unknown)} unknown "
            f"{unknown[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )


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
