"""Builds a model, backbone included, from the keys and shapes of a released checkpoint.

Every key must be used, or be one that the released model itself never uses; anything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

from torch import Tensor

from side4video.errors import CheckpointError
from side4video.official.names import side_names
from side4video.official.parts import count_blocks, layout_of, need, our_state, resolve_side_blocks, temporal_kernel
from side4video.official.read import read_checkpoint
from side4video.official.retrieval import load_retrieval
from side4video.official.trunk import build_clip_trunk, build_eva_trunk
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

# present in released recognition checkpoints with EVA, never used by that model
UNUSED_IN_RECOGNITION = re.compile(r"^visual\.(norm|head)\.(weight|bias)$")


@overload
def from_official(
    source: Mapping[str, Tensor] | str | Path,
    *,
    task: Literal["recognition"] = "recognition",
    num_heads: int | None = None,
    side_blocks: Sequence[int] | None = None,
    text_heads: int | None = None,
) -> VideoClassifier: ...


@overload
def from_official(
    source: Mapping[str, Tensor] | str | Path,
    *,
    task: Literal["retrieval"],
    num_heads: int | None = None,
    side_blocks: Sequence[int] | None = None,
    text_heads: int | None = None,
) -> VideoTextModel: ...


def from_official(
    source: Mapping[str, Tensor] | str | Path,
    *,
    task: str = "recognition",
    num_heads: int | None = None,
    side_blocks: Sequence[int] | None = None,
    text_heads: int | None = None,
) -> VideoClassifier | VideoTextModel:
    """A model from the authors' checkpoint: float32, eval mode, the frozen backbone inside.

    `task` is `recognition` or `retrieval`. `source` is a state dict, or the path of a `.pt` (read with weights_only) or
    safetensors file; a `model_state_dict` wrapper, a leading `module.` and half precision are undone. Hints for what
    shapes cannot tell: `num_heads` of the frozen blocks (default: heads 64 wide, 112 for EVA where that divides the
    width), `side_blocks`, the tapped frozen blocks (default: evenly spaced up to the last one), and for retrieval
    `text_heads` of the text tower (default: heads 64 wide).

    Raises:
        CheckpointError: a file that cannot be read, a state dict that is not a released one of this task, keys left
            over or missing, or hints that do not fit.
    """
    if task == "retrieval":
        return load_retrieval(
            read_checkpoint(source), num_heads=num_heads, side_blocks=side_blocks, text_heads=text_heads
        )
    if task != "recognition":
        raise CheckpointError(f"from_official: task must be recognition or retrieval; got {task!r}")
    if text_heads is not None:
        raise CheckpointError("from_official: text_heads belongs to retrieval; a recogniser has no text tower")
    return _load_recognition(read_checkpoint(source), num_heads=num_heads, side_blocks=side_blocks)


def _load_recognition(
    state: Mapping[str, Tensor], *, num_heads: int | None, side_blocks: Sequence[int] | None
) -> VideoClassifier:
    layout = layout_of(state, task="recognition")
    num_blocks = count_blocks(state, layout.side_blocks)
    depth_prefix = "visual.transformer.resblocks." if layout.dialect == "clip" else "visual.blocks."
    depth = count_blocks(state, depth_prefix)
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
        width=need(state, f"{layout.visual}side_conv1.bias").shape[0],
        taps=resolve_side_blocks(side_blocks, num_blocks, depth),
        temporal_kernel=temporal_kernel(state, names),
    )
    model = VideoClassifier(backbone, need(state, "fc.weight").shape[0], side=spec)
    names |= {"head.weight": ("fc.weight",), "head.bias": ("fc.bias",)}
    model.load_trainable_state(our_state(state, names, model.trainable_state()))
    return model.float().eval()
