"""Side4Video: a frozen image model becomes a video model by training a light side network beside it.

Importing this package is cheap: torch and the libraries behind the names below are imported when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from side4video.version import __version__

if TYPE_CHECKING:
    from side4video.backbones import FrozenBackbone, LayerTokens, create_backbone, list_backbones
    from side4video.build import load_run as load
    from side4video.build_hub import from_pretrained, push_to_hub
    from side4video.build_predictions import predict
    from side4video.errors import Side4VideoError
    from side4video.official import from_official
    from side4video.side import SideNetwork, SideSpec
    from side4video.streaming.live import StreamingClassifier
    from side4video.tasks import VideoClassifier, VideoTextModel

__all__ = [
    "FrozenBackbone",
    "LayerTokens",
    "Side4VideoError",
    "SideNetwork",
    "SideSpec",
    "StreamingClassifier",
    "VideoClassifier",
    "VideoTextModel",
    "__version__",
    "create_backbone",
    "from_official",
    "from_pretrained",
    "list_backbones",
    "load",
    "predict",
    "push_to_hub",
]

_HOMES = {
    "FrozenBackbone": ("side4video.backbones", "FrozenBackbone"),
    "LayerTokens": ("side4video.backbones", "LayerTokens"),
    "Side4VideoError": ("side4video.errors", "Side4VideoError"),
    "SideNetwork": ("side4video.side", "SideNetwork"),
    "SideSpec": ("side4video.side", "SideSpec"),
    "StreamingClassifier": ("side4video.streaming.live", "StreamingClassifier"),
    "VideoClassifier": ("side4video.tasks", "VideoClassifier"),
    "VideoTextModel": ("side4video.tasks", "VideoTextModel"),
    "create_backbone": ("side4video.backbones", "create_backbone"),
    "from_official": ("side4video.official", "from_official"),
    "from_pretrained": ("side4video.build_hub", "from_pretrained"),
    "list_backbones": ("side4video.backbones", "list_backbones"),
    "load": ("side4video.build", "load_run"),
    "predict": ("side4video.build_predictions", "predict"),
    "push_to_hub": ("side4video.build_hub", "push_to_hub"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
