"""From a name of timm to its trunk: weights from the hub or a file, any input size that the family allows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg, is_model

from side4video.backbones.freezing import content_hash
from side4video.backbones.hub import downloading
from side4video.backbones.mapped import own_weights, without_values
from side4video.backbones.timm_vit import TimmViT, require_family
from side4video.backbones.weights import load_whole, read_weights, timm_state
from side4video.errors import BackboneError, nearest_names


def build_timm(
    name: str, *, weights: str | None, pretrained: bool, image_size: tuple[int, int] | None
) -> tuple[TimmViT, str | None]:
    """The trunk called `timm:name`, and the hash of its weights where positions were resampled into them.

    Raises:
        BackboneError: for an unknown name, a model without patch tokens, weights that cannot be had, or an image size
            that it cannot take.
        CheckpointError: for a weights file that does not fit.
    """
    label = f"timm:{name}"
    record = _record(name)
    with torch.device("meta"):
        probe: Any = timm.create_model(name, pretrained=False)
    try:
        family = require_family(probe)
    except BackboneError as error:
        raise BackboneError(f"backbone {label!r}: {error}") from None
    options = _size_options(probe, any_size=family.any_size, image_size=image_size)
    resample = image_size is not None and not options and not family.any_size
    if weights is not None or not pretrained:
        with nullcontext() if weights is None else without_values():
            model: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
        if weights is not None:
            load_whole(model, timm_state(read_weights(weights), model), path=weights, name=label)
    else:
        if not record.has_weights:
            raise BackboneError(f"backbone {label!r} has no published weights; give weights=PATH or pretrained=False")
        with downloading(label, url="" if record.hf_hub_id else record.url or ""):
            model = timm.create_model(name, pretrained=True, num_classes=0, **options)
    weights_hash = None
    if resample:
        # what a run remembers is the checkpoint, not one machine's rounding of its resampled positions
        trunk = TimmViT(model)
        weights_hash = own_weights(trunk) or content_hash(trunk)
        model.set_input_size(img_size=image_size)
    return TimmViT(model, image_size=image_size), weights_hash


def _record(name: str) -> Any:
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        raise BackboneError(f"backbone 'timm:{name}' is not known to timm{nearest_names(name, timm.list_models())}")
    try:
        return get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise BackboneError(
            f"backbone 'timm:{name}': {architecture} has no weights called {tag!r}, "
            f"allowed are {', '.join(tags) or 'none'}"
        ) from error


def _size_options(probe: Any, *, any_size: bool, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """What to create the model with, so that it takes `image_size` and, where the family can, every other size too."""
    trunk = TimmViT(probe)
    if any_size:
        return {}
    rows, columns = trunk.patch_size
    if hasattr(probe, "dynamic_img_size"):
        fits = trunk.native_size[0] % rows == 0 and trunk.native_size[1] % columns == 0
        # made for a size that its patches do not divide, it must stay as it is unless another size is asked for
        return {"dynamic_img_size": True} if fits else {"img_size": image_size} if image_size else {}
    if image_size is None or image_size == trunk.native_size or hasattr(probe, "set_input_size"):
        return {}
    return {"img_size": image_size}
