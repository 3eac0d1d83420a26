"""What is in a released checkpoint, from its keys and shapes alone: every key is the side network's, the head's, the
frozen tower's, the text tower's, or one that the released model itself never uses. Anything else is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from side4video.backbones.released import BLOCKS, count_blocks, text_tower
from side4video.errors import CheckpointError
from side4video.official.names import OfficialLayout, retrieval_names, side_names
from side4video.official.parts import need, resolve_side_blocks, temporal_kernel
from side4video.side.spec import SideSpec

NEVER_USED = "in released recognition checkpoints with EVA, never used by that model"
UNUSED_IN_RECOGNITION = frozenset({"norm.weight", "norm.bias", "head.weight", "head.bias"})


@dataclass(frozen=True)
class Contents:
    """A checkpoint, sorted. `names` maps our name of each trained tensor to the released ones; `trunk` is the frozen
    image tower under its own names, with what retrieval trains after its blocks; `text` the text tower under its own;
    `unused` are keys of the image tower, with their values, that the model never uses. `spec` is the side network's."""

    layout: OfficialLayout
    depth: int
    spec: SideSpec
    names: dict[str, tuple[str, ...]]
    trunk: dict[str, Tensor]
    unused: dict[str, Tensor]
    text: dict[str, Tensor]
    num_classes: int | None
    wti_width: int | None

    @property
    def task(self) -> str:
        """`recognition` or `retrieval`."""
        return "retrieval" if self.layout.retrieval else "recognition"

    @property
    def frozen(self) -> dict[str, Tensor]:
        """The part of `trunk` that nothing trains."""
        trained = {key.removeprefix(self.layout.visual) for keys in self.names.values() for key in keys}
        return {key: value for key, value in self.trunk.items() if key not in trained}


def recognition_contents(
    state: Mapping[str, Tensor], layout: OfficialLayout, *, side_blocks: Sequence[int] | None
) -> Contents:
    """The parts of a recogniser.

    Raises:
        CheckpointError: keys that no released recogniser has, or lacks; side blocks that do not fit.
    """
    num_blocks = count_blocks(state, layout.side_blocks)
    names = side_names(layout, num_blocks, final_norm=layout.dialect == "clip")
    names |= {"head.weight": ("fc.weight",), "head.bias": ("fc.bias",)}
    own = {key for keys in names.values() for key in keys}
    _refuse_unknown((key for key in state if not key.startswith(layout.visual) and key not in own), "recogniser")
    tower = _inner(state, layout.visual, without=own)
    unused = {key: tower.pop(key) for key in sorted(tower.keys() & UNUSED_IN_RECOGNITION) if layout.dialect == "eva"}
    depth, spec = _spec(state, layout, names, num_blocks, side_blocks)
    return Contents(
        layout, depth, spec, names, tower, unused, text={}, num_classes=need(state, "fc.weight").shape[0],
        wti_width=None,
    )  # fmt: skip


def retrieval_contents(
    state: Mapping[str, Tensor],
    layout: OfficialLayout,
    *,
    side_blocks: Sequence[int] | None,
    text_heads: int | None = None,
) -> Contents:
    """The parts of a text-video model.

    Raises:
        CheckpointError: keys that no released model has, or lacks; side blocks or text heads that do not fit.
    """
    num_blocks = count_blocks(state, layout.side_blocks)
    beside = _inner(state, layout.text, without=set())
    with torch.device("meta"):
        tower = text_tower(beside, layout.dialect, heads=text_heads)
    wti = "text_weight_fc.0.weight" in state
    names = retrieval_names(layout, num_blocks, text=tower, wti=wti)
    own = {key for keys in names.values() for key in keys}
    _refuse_unknown((key for key in state if not key.startswith(layout.visual) and key not in own), "model")
    head = {key for name, keys in names.items() if name.startswith("frame_head.") for key in keys}
    depth, spec = _spec(state, layout, names, num_blocks, side_blocks)
    return Contents(
        layout,
        depth,
        spec,
        names,
        _inner(state, layout.visual, without=own - head),
        unused={},
        text={key: need(state, f"{layout.text}{key}") for key in tower.state_dict()},
        num_classes=None,
        wti_width=need(state, "text_weight_fc.0.weight").shape[0] if wti else None,
    )


def _spec(
    state: Mapping[str, Tensor],
    layout: OfficialLayout,
    names: Mapping[str, tuple[str, ...]],
    num_blocks: int,
    side_blocks: Sequence[int] | None,
) -> tuple[int, SideSpec]:
    depth = count_blocks(state, f"{layout.visual}{BLOCKS[layout.dialect]}")
    spec = replace(
        SideSpec.for_dialect(layout.dialect, retrieval=layout.retrieval),
        width=need(state, f"{layout.visual}side_conv1.bias").shape[0],
        taps=resolve_side_blocks(side_blocks, num_blocks, depth),
        temporal_kernel=temporal_kernel(state, names),
    )
    return depth, spec


def _inner(state: Mapping[str, Tensor], prefix: str, *, without: set[str]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix) and key not in without
    }


def _refuse_unknown(keys: Iterable[str], what: str) -> None:
    unknown = sorted(keys)
    if unknown:
        raise CheckpointError(f"the checkpoint has {len(unknown)} keys that no released {what} has: {unknown[:5]}")
