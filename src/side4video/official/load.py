"""Builds a model, backbone included, from the keys and shapes of a released checkpoint.

Every key must be used, or be one that the released model itself never uses; anything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from side4video.errors import CheckpointError
from side4video.official.names import OfficialLayout, side_names
from side4video.official.read import read_checkpoint
from side4video.official.trunk import build_clip_trunk, build_eva_trunk
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier

# present in released recognition checkpoints with EVA, never used by that model
UNUSED_IN_RECOGNITION = re.compile(r"^visual\.(norm|head)\.(weight|bias)$")


def from_official(
    source: Mapping[str, Tensor] | str | Path,
    *,
    task: str = "recognition",
    num_heads: int | None = None,
    side_blocks: Sequence[int] | None = None,
    text_heads: int | None = None,
) -> VideoClassifier:
    """A model from the authors' checkpoint: float32, eval mode, the frozen backbone inside.

    `source` is a state dict, or the path of a `.pt` (read with weights_only) or safetensors file; a `model_state_dict`
    wrapper, a leading `module.` and half precision are undone. Hints for what shapes cannot tell: `num_heads` of the
    frozen blocks (default: heads 64 wide, 112 for EVA where that divides the width), and `side_blocks`, the tapped
    frozen blocks (default: evenly spaced up to the last one). `text_heads` belongs to retrieval.

    Raises:
        CheckpointError: a file that cannot be read, a state dict that is not a released one, keys left over or missing,
            or hints that do not fit.
    """
    if task != "recognition":
        raise CheckpointError(f"from_official: task must be recognition; got {task!r}")
    if text_heads is not None:
        raise CheckpointError("from_official: text_heads belongs to retrieval; a recogniser has no text tower")
    state = read_checkpoint(source)
    layout = _layout(state)
    num_blocks = _count(state, f"{layout.side_blocks}")
    depth_prefix = "visual.transformer.resblocks." if layout.dialect == "clip" else "visual.blocks."
    depth = _count(state, depth_prefix)
    final_norm = layout.dialect == "clip"
    names = side_names(layout, num_blocks, final_norm=final_norm)
    side_keys = {key for keys in names.values() for key in keys}
    trunk_state = {
        key.removeprefix(layout.visual): value
        for key, value in state.items()
        if key.startswith(layout.visual) and key not in side_keys
    }
    unknown = sorted(k for k in state if not k.startswith(layout.visual) and k not in {"fc.weight", "fc.bias"})
    if unknown:
        raise CheckpointError(f"the checkpoint has {len(unknown)} keys that no released recogniser has: {unknown[:5]}")
    trunk_state = {k: v for k, v in trunk_state.items() if not UNUSED_IN_RECOGNITION.match(f"visual.{k}")}
    build_trunk = build_clip_trunk if layout.dialect == "clip" else build_eva_trunk
    backbone = build_trunk(trunk_state, depth=depth, num_heads=num_heads)
    spec = replace(
        SideSpec.for_dialect(layout.dialect),
        width=_need(state, f"{layout.visual}side_conv1.bias").shape[0],
        taps=_taps(side_blocks, num_blocks, depth),
        temporal_kernel=_temporal_kernel(state, names),
    )
    model = VideoClassifier(backbone, _need(state, "fc.weight").shape[0], side=spec)
    names |= {"head.weight": ("fc.weight",), "head.bias": ("fc.bias",)}
    model.load_trainable_state(_our_state(state, names, model.trainable_state()))
    return model.float().eval()


def _layout(state: Mapping[str, Tensor]) -> OfficialLayout:
    if any(key.startswith("visual.transformer.side_transformer.") for key in state):
        return OfficialLayout("clip", retrieval=False)
    if any(key.startswith("visual.side_blocks.") for key in state):
        return OfficialLayout("eva", retrieval=False)
    if any(key.startswith("clip.visual.") for key in state):
        raise CheckpointError("this is a retrieval checkpoint (clip.visual.*), not a recognition one")
    raise CheckpointError(
        "this is not a released Side4Video checkpoint: neither visual.transformer.side_transformer.* (CLIP) nor "
        f"visual.side_blocks.* (EVA) is in it; it starts with {sorted(state)[:3]}"
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks there are under a prefix; they must be numbered 0, 1, 2, ..."""
    found = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    numbers = sorted(int(number) for number in found if number.isdecimal())
    if not numbers or numbers != list(range(len(numbers))):
        raise CheckpointError(f"the checkpoint's blocks {prefix}N must be numbered 0, 1, 2, ...; got {numbers}")
    return len(numbers)


def _taps(side_blocks: Sequence[int] | None, num_blocks: int, depth: int) -> tuple[int, ...]:
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


def _temporal_kernel(state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> int:
    return _need(state, names["side.blocks.0.temporal.depthwise.weight"][0]).shape[2]


def _our_state(
    state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors, from theirs: stacked where we keep them together, without the unit axes of their convolutions."""
    ours: dict[str, Tensor] = {}
    for name, target in own.items():
        sources = [_need(state, key) for key in names[name]]
        value = sources[0] if len(sources) == 1 else torch.cat(sources)
        if [size for size in value.shape if size != 1] != [size for size in target.shape if size != 1]:
            raise CheckpointError(
                f"{' + '.join(names[name])} has shape {tuple(value.shape)}; {tuple(target.shape)} fits this model"
            )
        ours[name] = value.reshape(target.shape)
    return ours


def _need(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"the checkpoint lacks {key}")
    return state[key]
