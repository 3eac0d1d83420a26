"""What is compared: image models, batches, methods, and in how many ways each method can save memory.

Ways, beside `plain`. `checkpointed`: each block keeps only what enters it; `offloaded`: and that waits in host memory.
`slices`: a frozen model that nothing enters
runs over 32 frames at a time. `one clip at a time`: the gradients of single clips are added up, which is exact for
every method whose clips do not see each other; ours is such a method only with layer norms instead of batch norms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

from torch import nn

from peers.aim import aim
from peers.common import frozen_trunk, trained_trunk
from peers.evl import Evl
from peers.full import full_fine_tuning
from peers.lora import lora
from peers.probes import AttentiveHead, MeanHead, Probe
from peers.side4video import ours, released
from peers.st_adapter import st_adapter
from released_layout import Attention
from side4video.model import LEAN_FRAME_SLICE
from side4video.side.network import MemoryMode

PLAIN, CHECKPOINTED, SLICES, ONE_CLIP = "plain", "checkpointed", "slices", "one clip at a time"
OFFLOADED = "checkpointed, offloaded"
UNFUSED = "unfused attention"  # the released layout with the attention of the paper's time
MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)

# image model (a timm name, or a model), precision of its frozen weights, number of classes -> model on the meta device
Build = Callable[[str | nn.Module, str, int], nn.Module]


@dataclass(frozen=True)
class Size:
    """An image model with the batches it is measured at, and the widths and taps of the side network beside it.

    `depth` is set where models of few blocks are simulated in its place.
    """

    label: str
    backbone: str
    batch_sizes: tuple[int, ...]
    full: tuple[int, str]
    light: tuple[int, str] | None
    depth: int | None = None


SIZES = (
    Size("ViT-B/16", "timm:vit_base_patch16_clip_quickgelu_224", (32,), (320, "all"), (192, "every_second")),
    Size("ViT-L/14", "timm:vit_large_patch14_clip_quickgelu_224", (16,), (512, "all"), (320, "every_second")),
    Size("ViT-E/14", "timm:eva02_enormous_patch14_clip_224", (1, 4, 8), (576, "every_second"), None, depth=64),
)
FRAMES = (8, 16, 32)


@dataclass(frozen=True)
class Entry:
    """One method, one way of saving memory. `memory` is set for our own modes."""

    method: str
    way: str
    build: Build
    memory: MemoryMode | None = None


def entries(size: Size) -> list[Entry]:
    """All that is compared on an image model, peers first."""
    found: list[Entry] = []
    for method, build in PEERS.items():
        found += [
            Entry(method, PLAIN, partial(build, checkpointed=False)),
            Entry(method, CHECKPOINTED, partial(build, checkpointed=True)),
            Entry(method, OFFLOADED, partial(build, checkpointed=True)),
            Entry(method, ONE_CLIP, partial(build, checkpointed=False)),
        ]
    for method, build in PROBES.items():
        found += [
            Entry(method, PLAIN, partial(build, slice_frames=None)),
            Entry(method, SLICES, partial(build, slice_frames=LEAN_FRAME_SLICE)),
            Entry(method, ONE_CLIP, partial(build, slice_frames=None)),
        ]
    width, taps = size.full
    kinds: tuple[tuple[str, Attention], ...] = ((PLAIN, "fused"), (UNFUSED, "plain"))
    for way, attention in kinds:
        found.append(Entry(RELEASED, way, partial(_released, width=width, taps=taps, attention=attention)))
    for method, (width, taps) in {OURS: size.full, OURS_LIGHT: size.light or (0, "")}.items():
        if not width:
            continue
        for memory in MODES:
            found.append(Entry(method, memory, partial(_ours, width=width, taps=taps, memory=memory), memory))
        layered = partial(_ours, width=width, taps=taps, memory="balanced", layer_norm=True)
        found.append(Entry(f"{method}, layer norms", ONE_CLIP, layered))
    return found


def cells() -> list[tuple[Size, int, int, Entry]]:
    """Everything that is simulated: image model, batch size, frames, entry."""
    return [
        (size, batch_size, num_frames, entry)
        for num_frames in FRAMES
        for size in SIZES
        for batch_size in size.batch_sizes
        for entry in entries(size)
        # one clip at a time is the same at every batch size
        if entry.way != ONE_CLIP or batch_size == size.batch_sizes[-1]
    ]


def _full(name: str | nn.Module, precision: str, classes: int, *, checkpointed: bool) -> nn.Module:  # noqa: ARG001
    return full_fine_tuning(trained_trunk(name), classes, checkpointed=checkpointed)


def _lora(name: str | nn.Module, precision: str, classes: int, *, checkpointed: bool) -> nn.Module:
    return lora(frozen_trunk(name, precision=precision), classes, checkpointed=checkpointed)


def _st_adapter(name: str | nn.Module, precision: str, classes: int, *, checkpointed: bool) -> nn.Module:
    return st_adapter(frozen_trunk(name, precision=precision), classes, checkpointed=checkpointed)


def _aim(name: str | nn.Module, precision: str, classes: int, *, checkpointed: bool) -> nn.Module:
    return aim(frozen_trunk(name, precision=precision), classes, checkpointed=checkpointed)


def _evl(name: str | nn.Module, precision: str, classes: int, *, checkpointed: bool) -> nn.Module:
    return Evl(frozen_trunk(name, precision=precision), classes, checkpointed=checkpointed)


def _linear(name: str | nn.Module, precision: str, classes: int, *, slice_frames: int | None) -> nn.Module:
    trunk = frozen_trunk(name, precision=precision)
    return Probe(trunk, MeanHead(trunk.width, classes), pooled=True, slice_frames=slice_frames)


def _attentive(name: str | nn.Module, precision: str, classes: int, *, slice_frames: int | None) -> nn.Module:
    trunk = frozen_trunk(name, precision=precision)
    return Probe(trunk, AttentiveHead(trunk.width, classes), pooled=False, slice_frames=slice_frames)


def _released(
    name: str | nn.Module, precision: str, classes: int, *, width: int, taps: str, attention: Attention  # noqa: ARG001
) -> nn.Module:  # fmt: skip
    return released(name, classes, width=width, taps=taps, attention=attention)


def _ours(
    name: str | nn.Module, precision: str, classes: int, *, width: int, taps: str, memory: MemoryMode,
    layer_norm: bool = False,
) -> nn.Module:  # fmt: skip
    return ours(name, classes, width=width, taps=taps, memory=memory, layer_norm=layer_norm, precision=precision)


PEERS: dict[str, Callable[..., nn.Module]] = {
    "full fine-tuning": _full,
    "LoRA (peft)": _lora,
    "ST-Adapter-style": _st_adapter,
    "AIM-style": _aim,
    "EVL-style": _evl,
}
PROBES: dict[str, Callable[..., nn.Module]] = {"linear probe": _linear, "attentive probe": _attentive}
RELEASED, OURS, OURS_LIGHT = "Side4Video, released layout", "Side4Video (ours)", "Side4Video light (ours)"
