"""Frozen image models: promises (`trunk`), wrapper (`base`), adapters, how one is made (`create`), a list (`catalog`).

Importing this package imports no torch; the names below do when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from side4video.backbones.catalog import BackboneEntry, list_backbones

if TYPE_CHECKING:
    from side4video.backbones.base import FrozenBackbone
    from side4video.backbones.create import create_backbone
    from side4video.backbones.trunk import ImageTrunk, LayerTokens, Preprocessing

__all__ = [
    "BackboneEntry",
    "FrozenBackbone",
    "ImageTrunk",
    "LayerTokens",
    "Preprocessing",
    "create_backbone",
    "list_backbones",
]

_HOMES = {
    "FrozenBackbone": "base",
    "ImageTrunk": "trunk",
    "LayerTokens": "trunk",
    "Preprocessing": "trunk",
    "create_backbone": "create",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
