"""From a name of open_clip to the trunk of its image tower; the text tower is not built.

A tag's record decides what its architecture's file leaves open: mean, std, interpolation, and QuickGELU, without which
OpenAI's weights give other numbers.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower, resize_pos_embed  # pyright: ignore[reportPrivateUsage]
from open_clip.pretrained import download_pretrained
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

from side4video.backbones.freezing import content_hash
from side4video.backbones.hub import downloading
from side4video.backbones.mapped import own_weights, without_values
from side4video.backbones.open_clip_vit import OpenClipViT, open_clip_preprocessing
from side4video.backbones.timm_vit import WHAT_WORKS, TimmViT
from side4video.backbones.weights import State, load_whole, read_weights, timm_state, tower_part
from side4video.errors import BackboneError, nearest_names

Trunk = OpenClipViT | TimmViT
_LISTED = 8
_RECORD_KEYS = ("mean", "std", "interpolation")


def build_open_clip(
    name: str, *, weights: str | None, pretrained: bool, image_size: tuple[int, int] | None
) -> tuple[Trunk, str | None]:
    """The trunk called `open_clip:name` (ARCH or ARCH/PRETRAINED), and its hash where positions were resampled into it.

    Raises:
        BackboneError: for an unknown name, a tower without patch tokens, weights that cannot be had, or an image size
            that it cannot take.
        CheckpointError: for a weights file that does not fit.
    """
    label = f"open_clip:{name}"
    architecture, _, tag = name.partition("/")
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise BackboneError(
            f"backbone {label!r}: open_clip has no {architecture!r}"
            + nearest_names(architecture, open_clip.list_models())
        )
    record = _record(architecture, tag, needed=pretrained and weights is None, label=label)
    with torch.device("meta"):
        tower_trunk(open_clip_tower(config, record), label=label)
    path = weights
    if weights is None and pretrained:
        with downloading(label, url="" if record.get("hf_hub") else record.get("url", "")):
            path = download_pretrained(record)
    with nullcontext() if path is None else without_values():
        tower = open_clip_tower(config, record)
    if path is not None:
        load_whole(tower, _fitted(read_weights(path), tower), path=path, name=label)
    weights_hash = None
    trunk = tower_trunk(tower, label=label)
    if isinstance(tower, TimmModel) and image_size not in (None, trunk.native_size):
        if not hasattr(tower.trunk, "set_input_size"):
            raise BackboneError(f"backbone {label!r} takes {trunk.native_size} only, got image_size={image_size}")
        weights_hash = own_weights(trunk) or content_hash(trunk)
        tower.set_input_size(image_size)
    return tower_trunk(tower, image_size=image_size, label=label), weights_hash


def open_clip_tower(config: dict[str, Any], record: dict[str, Any]) -> nn.Module:
    """The image tower of an architecture, with random weights and the record of its pixels on it."""
    vision = dict(config["vision_cfg"])
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    quick_gelu = bool(record.get("quick_gelu", config.get("quick_gelu", False)))
    tower = _build_vision_tower(config["embed_dim"], CLIPVisionCfg(**vision), quick_gelu)
    pixels: Any = {key: record[key] for key in _RECORD_KEYS if key in record}
    tower.preprocess_cfg = pixels
    return tower


def tower_trunk(tower: nn.Module, *, label: str, image_size: tuple[int, int] | None = None) -> Trunk:
    """The adapter around an image tower of open_clip.

    Raises:
        BackboneError: when the tower has no patch tokens.
    """
    if isinstance(tower, VisionTransformer):
        return OpenClipViT(tower, image_size=image_size)
    if not isinstance(tower, TimmModel):
        raise BackboneError(f"backbone {label!r}: {type(tower).__name__} has no patch tokens; {WHAT_WORKS}")
    try:
        return TimmViT(
            tower.trunk,
            image_size=image_size,
            projection=tower.head,
            preprocessing=open_clip_preprocessing(tower),
        )
    except BackboneError as error:
        raise BackboneError(f"backbone {label!r}: {error}") from None


def _record(architecture: str, tag: str, *, needed: bool, label: str) -> dict[str, Any]:
    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    more = f" and {len(tags) - _LISTED} more" if len(tags) > _LISTED else ""
    listed = f"{', '.join(tags[:_LISTED])}{more}" if tags else "none of its own"
    if tag:
        record = open_clip.get_pretrained_cfg(architecture, tag)
        if not record:
            raise BackboneError(
                f"backbone {label!r}: {architecture} has no weights called {tag!r}, allowed are {listed}"
                + nearest_names(tag, tags)
            )
        return record
    if needed:
        raise BackboneError(
            f"backbone {label!r} names no weights: write open_clip:{architecture}/PRETRAINED with one of {listed}, "
            "or give weights=PATH or pretrained=False"
        )
    # without a tag, the pixels are known when all of the architecture's weights agree on them
    records = [
        {key: known[key] for key in _RECORD_KEYS}
        for known in (open_clip.get_pretrained_cfg(architecture, t) for t in tags)
    ]
    return records[0] if records and all(known == records[0] for known in records) else {}


def _fitted(state: State, tower: nn.Module) -> State:
    state = tower_part(state, tower=tower)
    if isinstance(tower, TimmModel):
        whole_tower = any(key.startswith("trunk.") for key in state)
        head = {key: value for key, value in state.items() if key.startswith("head.")} if whole_tower else {}
        trunk = timm_state(state, tower.trunk)
        # beside a trunk, `head.` is the tower's; inside one (EVA02-CLIP-E), it is the trunk's own
        return head | {f"trunk.{key}": value for key, value in trunk.items()}
    whole = {f"visual.{key}": value for key, value in state.items()}
    resize_pos_embed(whole, SimpleNamespace(visual=tower))
    return {key.removeprefix("visual."): value for key, value in whole.items()}
