"""One function that makes a frozen backbone from a name or from a model that is already there."""

from __future__ import annotations

import logging
from typing import TypedDict

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

from side4video.backbones import tiny
from side4video.backbones.base import FrozenBackbone
from side4video.backbones.build_open_clip import build_open_clip, tower_trunk
from side4video.backbones.build_timm import build_timm
from side4video.backbones.catalog import AUTO, TINY, suggest
from side4video.backbones.mapped import own_weights
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.backbones.precision import resolve_precision
from side4video.backbones.quantised import Quantisation
from side4video.backbones.released import LIBRARY as RELEASED
from side4video.backbones.released import build_released
from side4video.backbones.run_blocks import blocks_of
from side4video.backbones.timm_vit import TimmViT
from side4video.backbones.trunk import ImageTrunk
from side4video.backbones.weights import load_whole, read_weights
from side4video.errors import BackboneError

_log = logging.getLogger(__name__)


def create_backbone(
    name_or_module: str | nn.Module,
    *,
    weights: str | None = None,
    pretrained: bool = True,
    image_size: int | tuple[int, int] | None = None,
    precision: str = "auto",
    quantise: Quantisation = "none",
    stream_weights: bool = False,
    shard: int = 1,
    device: torch.device | str | None = None,
) -> FrozenBackbone:
    """A frozen image model, from a name or around a model that you built.

    Names: `tiny-clip`, `timm:NAME`, `open_clip:ARCH/PRETRAINED` (or `open_clip:ARCH` with `weights` or
    `pretrained=False`), and `auto`: CLIP ViT-B/16 where its weights can be had, else tiny-clip with a warning in the
    log. A module may be a timm model, an open_clip model or its image tower, or anything that keeps the promises of
    `ImageTrunk`; it is frozen in place, and keeps its own precision unless one is named.

    `precision` is `fp32`, `bf16`, `fp16` or `auto`: the checkpoint's own on a GPU, bf16 on a CPU that has units for
    it, else fp32. `device` is where the model goes, and what `auto` looks at; the CPU unless it is given. On `meta` the
    model has shapes and no weights, and nothing is downloaded or read: `auto` is then 16 bits, as most checkpoints are.

    `quantise` keeps the matrices of the blocks in fewer bits: `int8`, `fp8` or `int4`, approximate all three.
    `stream_weights` keeps the blocks in host memory and brings each to the device when its turn comes: exact, slower.
    `shard` spreads the blocks over that many processes, which must be all of the group that torch.distributed has
    started; every process then makes the same passes (see `FrozenBackbone.take_part`).

    Raises:
        BackboneError: for a name that is unknown (the nearest are named), a model that has no patch tokens, weights
            that cannot be had, an image size that the model cannot take, or another number of processes than `shard`.
        CheckpointError: for a weights file that cannot be read or does not fit.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    target = torch.device("cpu" if device is None else device)
    rest: _Rest = {"quantise": quantise, "stream_weights": stream_weights, "shard": shard}
    if isinstance(name_or_module, nn.Module):
        return _around(name_or_module, weights=weights, size=size, precision=precision, device=device, rest=rest)
    if target.type == "meta":
        return _without_weights(name_or_module, size=size, precision=precision, rest=rest)
    name, trunk, weights_hash = _named(name_or_module, weights=weights, pretrained=pretrained, size=size)
    kept = resolve_precision(precision, trunk, target)
    spread = blocks_of(trunk) if shard > 1 and isinstance(trunk, ImageTrunk) else ()
    mapped_hash = own_weights(trunk, kept, but=spread)
    backbone = FrozenBackbone(
        trunk, name=name, precision=kept, weights_hash=weights_hash or mapped_hash, device=target, **rest
    )
    return backbone.to(target)


class _Rest(TypedDict):
    quantise: Quantisation
    stream_weights: bool
    shard: int


def _without_weights(name: str, *, size: tuple[int, int] | None, precision: str, rest: _Rest) -> FrozenBackbone:
    name = AUTO if name == "auto" else name
    with torch.device("meta"):
        name, trunk, _ = _named(name, weights=None, pretrained=False, size=size)
    dtype = torch.bfloat16 if precision == "auto" else resolve_precision(precision, trunk, torch.device("meta"))
    return FrozenBackbone(trunk, name=name, precision=dtype, weights_hash="no weights", **rest)


def _named(
    name: str, *, weights: str | None, pretrained: bool, size: tuple[int, int] | None
) -> tuple[str, nn.Module, str | None]:
    if name == "auto":
        return _auto(weights=weights, pretrained=pretrained, size=size)
    if name == TINY:
        return name, _tiny(weights=weights, pretrained=pretrained, size=size), None
    library, colon, model = name.partition(":")
    if colon and model and library == "timm":
        return name, *build_timm(model, weights=weights, pretrained=pretrained, image_size=size)
    if colon and model and library == "open_clip":
        return name, *build_open_clip(model, weights=weights, pretrained=pretrained, image_size=size)
    if library == RELEASED:
        return name, build_released(name, weights=weights), None
    raise BackboneError(
        f"backbone {name!r} is not known{suggest(name)} Allowed are tiny-clip, auto, timm:NAME and "
        "open_clip:ARCH/PRETRAINED; `side4video backbones` lists them"
    )


def _auto(*, weights: str | None, pretrained: bool, size: tuple[int, int] | None) -> tuple[str, nn.Module, str | None]:
    if weights is not None:
        raise BackboneError("backbone 'auto' with weights=PATH: name the model that the file belongs to")
    try:
        return _named(AUTO, weights=None, pretrained=pretrained, size=size)
    except BackboneError as error:
        _log.warning("using %s, which is small, in place of %s: %s", TINY, AUTO, error)
        return _named(TINY, weights=None, pretrained=pretrained, size=size)


def _tiny(*, weights: str | None, pretrained: bool, size: tuple[int, int] | None) -> nn.Module:
    model = tiny.tiny_clip_model(pretrained=pretrained and weights is None)
    if weights is not None:
        load_whole(model, read_weights(weights), path=weights, name=TINY)
    visual = model.visual
    assert isinstance(visual, VisionTransformer)
    return OpenClipViT(visual, image_size=size)


def _around(
    module: nn.Module,
    *,
    weights: str | None,
    size: tuple[int, int] | None,
    precision: str,
    device: torch.device | str | None,
    rest: _Rest,
) -> FrozenBackbone:
    if weights is not None:
        raise BackboneError("weights=PATH goes with a name; load them into your model before you pass it")
    if isinstance(module, FrozenBackbone):
        if rest["quantise"] != "none" or rest["stream_weights"] or rest["shard"] > 1:
            raise BackboneError("quantise, stream_weights and shard go with a model that is not frozen yet")
        return module
    name = f"custom:{type(module).__name__}"
    trunk = module if isinstance(module, ImageTrunk) else _adapter(module, name=name, size=size)
    first = next((p for p in trunk.parameters() if p.is_floating_point()), None)
    own = torch.float32 if first is None else first.dtype
    target = torch.device(device) if device is not None else torch.device("cpu") if first is None else first.device
    kept = own if precision == "auto" else resolve_precision(precision, trunk, target)
    return FrozenBackbone(trunk, name=name, precision=kept, device=target, **rest).to(target)


def _adapter(module: nn.Module, *, name: str, size: tuple[int, int] | None) -> nn.Module:
    visual = getattr(module, "visual", None)
    tower = visual if isinstance(visual, nn.Module) else module
    if isinstance(tower, VisionTransformer | TimmModel):
        return tower_trunk(tower, label=name, image_size=size)
    return TimmViT(tower, image_size=size)
