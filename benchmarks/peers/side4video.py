"""Side4Video, ours in every memory mode and the released layout, at the paper's full and light widths."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from peers.common import make_backbone
from released_layout import Attention, ReleasedLayout
from side4video.backbones.base import FrozenBackbone
from side4video.model import make_side_network
from side4video.side.network import MemoryMode
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier


def side_spec(backbone: FrozenBackbone, *, width: int, taps: str, layer_norm: bool = False) -> SideSpec:
    """The backbone's dialect at a width and with some taps; with layer norms, clips do not depend on each other."""
    spec = SideSpec.for_dialect("eva" if backbone.post_norm else "clip")
    return replace(spec, width=width, taps=taps, norm="layer" if layer_norm else "batch")


def ours(
    name: str | nn.Module,
    num_classes: int,
    *,
    width: int,
    taps: str,
    memory: MemoryMode,
    layer_norm: bool = False,
    precision: str = "bf16",
) -> VideoClassifier:
    """The model that `side4video train` trains."""
    backbone = make_backbone(name, precision=precision)
    spec = side_spec(backbone, width=width, taps=taps, layer_norm=layer_norm)
    return VideoClassifier(backbone, num_classes, side=make_side_network(backbone, spec, memory=memory))


def released(
    name: str | nn.Module,
    num_classes: int,
    *,
    width: int,
    taps: str,
    attention: Attention,
) -> ReleasedLayout:
    """Float32 frozen weights with 16-bit arithmetic, as the released training runs."""
    backbone = make_backbone(name, precision="fp32")
    return ReleasedLayout(backbone, num_classes, side_spec(backbone, width=width, taps=taps), attention=attention)
