"""Frozen image models: what they promise (`base`), their adapters, how one is made (`create`), which exist (`catalog`).

Importing this package imports no torch; the names below do when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from side4video.backbones.catalog import BackboneEntry, list_backbones

if TYPE_CHECKING:
    from side4video.backbones.base import FrozenBackbone, ImageTrunk, LayerTokens, Preprocessing
    from side4video.backbones.create import create_backbone

__all__ = [
    "BackboneEntry",
    "FrozenBackbone",
    "ImageTrunk",
    "LayerTokens",
    "Preprocessing",
    "create_backbone",
    "list_backbones",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'create' if name == 'create_backbone' else 'base'}"), name)
