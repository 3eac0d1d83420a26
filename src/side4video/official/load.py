"""Builds a model, backbone included, from the keys and shapes of a released checkpoint.

Every key must be used, or be one that the released model itself never uses; anything else is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

from torch import Tensor

from side4video.backbones import create_backbone
from side4video.backbones.released import image_trunk
from side4video.errors import CheckpointError
from side4video.official.contents import recognition_contents
from side4video.official.parts import layout_of, our_state
from side4video.official.read import read_checkpoint
from side4video.official.retrieval import load_retrieval
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel


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
    found = recognition_contents(state, layout, side_blocks=side_blocks)
    backbone = create_backbone(image_trunk(found.trunk, layout.dialect, heads=num_heads), precision="fp32")
    assert found.num_classes is not None
    model = VideoClassifier(backbone, found.num_classes, side=found.spec)
    model.load_trainable_state(our_state(state, found.names, model.trainable_state()))
    return model.float().eval()
