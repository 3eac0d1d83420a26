"""What reading any released checkpoint needs: counting its blocks, finding the taps, turning its tensors into ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from side4video.errors import CheckpointError
from side4video.official.names import OfficialLayout


def layout_of(state: Mapping[str, Tensor], *, task: str | None = None) -> OfficialLayout:
    """Where this checkpoint keeps things; `task` is the one that it must be of.

    Raises:
        CheckpointError: it is of the other task, or no released checkpoint at all.
    """
    for retrieval in (False, True):
        for dialect in ("clip", "eva"):
            layout = OfficialLayout(dialect, retrieval=retrieval)
            if any(key.startswith(layout.side_blocks) for key in state):
                found = "retrieval" if retrieval else "recognition"
                if task not in (None, found):
                    raise CheckpointError(f"this is a {found} checkpoint ({layout.side_blocks}*), not a {task} one")
                return layout
    raise CheckpointError(
        "this is not a released Side4Video checkpoint: neither visual.transformer.side_transformer.* (CLIP) nor "
        f"visual.side_blocks.* (EVA) is in it, with or without clip. in front; it starts with {sorted(state)[:3]}"
    )


def resolve_side_blocks(side_blocks: Sequence[int] | None, num_blocks: int, depth: int) -> tuple[int, ...]:
    """The tapped frozen blocks: as the caller says, or evenly spaced up to the last one.

    Raises:
        CheckpointError: another number of them than side blocks, or a depth that they do not divide.
    """
    if side_blocks is not None:
        if len(side_blocks) != num_blocks:
            raise CheckpointError(
                f"side_blocks must name {num_blocks} frozen blocks, one for each side block; got {list(side_blocks)}"
            )
        return tuple(side_blocks)
    if depth % num_blocks:
        raise CheckpointError(
            f"the checkpoint has {num_blocks} side blocks for {depth} frozen blocks: say which ones (side_blocks=[...])"
        )
    step = depth // num_blocks
    return tuple(range(step - 1, depth, step))


def temporal_kernel(state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> int:
    """How many frames the temporal convolution sees."""
    return need(state, names["side.blocks.0.temporal.depthwise.weight"][0]).shape[2]


def our_state(
    state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors, from theirs: stacked where we keep them together, without the unit axes of their convolutions.

    Raises:
        CheckpointError: a name that the checkpoint lacks, or a shape that does not fit.
    """
    ours: dict[str, Tensor] = {}
    for name, target in own.items():
        sources = [need(state, key) for key in names[name]]
        value = sources[0] if len(sources) == 1 else torch.cat(sources)
        if [size for size in value.shape if size != 1] != [size for size in target.shape if size != 1]:
            raise CheckpointError(
                f"{' + '.join(names[name])} has shape {tuple(value.shape)}; {tuple(target.shape)} fits this model"
            )
        ours[name] = value.reshape(target.shape)
    return ours


def need(state: Mapping[str, Tensor], key: str) -> Tensor:
    """One tensor of the checkpoint.

    Raises:
        CheckpointError: it is not there.
    """
    if key not in state:
        raise CheckpointError(f"the checkpoint lacks {key}")
    return state[key]
