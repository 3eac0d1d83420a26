"""What timm and open_clip list today, built small: two blocks, on the meta device or with a few patches."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import open_clip
import timm
import torch
from timm.models import model_entrypoint
from torch import nn

from side4video.backbones.timm_vit import require_family
from side4video.errors import BackboneError

DEPTH = 2


def small_timm(name: str, **options: Any) -> nn.Module:
    """A model of timm with two blocks where its constructor can be told so, else whole; random weights, no head."""
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, depth=DEPTH, **options).eval()
    except (TypeError, AssertionError, ValueError):
        return timm.create_model(name, pretrained=False, num_classes=0, **options).eval()


def narrow_timm(name: str, like: nn.Module, **options: Any) -> nn.Module:
    """The same code as `like`, with two heads where the constructor can be told so: real numbers at little cost."""
    attention = getattr(getattr(like, "encoder", like).blocks[0], "attn", None)
    heads = getattr(attention, "num_heads", None)
    if heads:
        width = getattr(like, "encoder", like).embed_dim // heads * 2
        try:
            model = small_timm(name, embed_dim=width, num_heads=2, **options)
            if signature(model) == signature(like):
                return model
        except (TypeError, AssertionError, ValueError, RuntimeError):
            pass
    try:
        return small_timm(name, **options)
    except TypeError:
        options.pop("img_size", None)
        return small_timm(name, **options)


def timm_by_file() -> dict[str, list[str]]:
    """Every name of timm, by the file that defines it."""
    files: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        files[model_entrypoint(name).__module__].append(name)
    return dict(files)


def split_timm() -> tuple[list[str], dict[str, str]]:
    """Names of the files' models that an adapter takes, and the classes that are refused with what was said."""
    taken: list[str] = []
    refused: dict[str, str] = {}
    for names in timm_by_file().values():
        with torch.device("meta"):
            model = small_timm(names[0])
        try:
            require_family(model)
            taken += names
        except BackboneError as error:
            refused[type(model).__name__] = str(error)
    return taken, refused


def signature(model: nn.Module) -> tuple[object, ...]:
    """What a model is made of, sizes left out: models with one signature run the same code."""
    inner = getattr(model, "encoder", model)
    modules = {(re.sub(r"\.\d+", ".", path), type(part).__name__) for path, part in model.named_modules()}
    parameters = {re.sub(r"\.\d+", ".", path) for path, _ in model.named_parameters()}
    flags = {(key, str(value)) for key, value in vars(inner).items() if isinstance(value, bool | str)}
    flags -= {("dynamic_img_size", "True"), ("dynamic_img_size", "False")}
    return type(model).__name__, frozenset(modules), frozenset(parameters), frozenset(flags)


@contextmanager
def small_towers() -> Iterator[None]:
    """Within, open_clip builds its timm towers with two blocks."""
    original: Callable[..., nn.Module] = timm.create_model

    def shallow(name: str, **options: Any) -> nn.Module:
        try:
            return original(name, **options, depth=DEPTH)
        except TypeError:
            return original(name, **options)

    timm.create_model = shallow
    try:
        yield
    finally:
        timm.create_model = original


def small_open_clip(architecture: str, **vision: Any) -> dict[str, Any]:
    """open_clip's configuration of an architecture with two blocks in the image tower."""
    config: dict[str, Any] = open_clip.get_model_config(architecture)
    own = config["vision_cfg"]
    if isinstance(own.get("layers"), int):
        own["layers"] = DEPTH
    own.update(vision)
    return config


def randomise(model: nn.Module) -> None:
    """Every parameter a random number: a position table of zeros or a layer scale near zero would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
