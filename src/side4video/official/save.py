"""A model of ours under the authors' key names: the whole state dict, frozen towers included.

What the released code cannot express (another temporal mixing, another norm, no stem, another kind of image model) is
refused by name. Every number is kept: retrieval with CLIP is in half precision where the released code has it so, but
only tensors that lose nothing by it.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace

import torch
from torch import Tensor

from side4video.backbones.released import AFTER_BLOCKS, inner_tower
from side4video.errors import CheckpointError
from side4video.official.names import OfficialLayout, retrieval_names, side_names
from side4video.side.network import SideNetwork
from side4video.side.spec import SideSpec
from side4video.tasks.base import TrainedModel
from side4video.tasks.recognition import VideoClassifier

# of no effect on a trained model, or read from the checkpoint's shapes
_FREE_FIELDS = frozenset({"width", "taps", "temporal_kernel", "num_heads", "init"})
_POINTWISE = re.compile(r"\.(conv\.0|conv\.2|pw_conv1|pw_conv2)\.weight$")
_DEPTHWISE = re.compile(r"\.(conv\.1|dw_conv1)\.weight$")
# linear layers, convolutions and attention of retrieval with CLIP; norms, tables and side_proj are single precision
_HALF_IN_RETRIEVAL = re.compile(
    r"\.(in_proj_(weight|bias)|(out_proj|c_fc|c_proj|fc1|fc2|pw_conv1|dw_conv1|pw_conv2)\.(weight|bias)"
    r"|side_linears\.\d+\.(weight|bias)|side_conv1\.(weight|bias)|conv1\.weight|visual\.proj|text_projection)$"
)


def official_state(model: TrainedModel) -> dict[str, Tensor]:
    """All tensors of a model under the released names, on the CPU. Its backbone must hold float32 weights.

    Raises:
        CheckpointError: a side network, backbone or text tower that the released code does not have; the message names
            what differs.
    """
    tower = inner_tower(model.backbone.trunk)  # pyright: ignore[reportArgumentType] - a trunk is a module
    retrieval = not isinstance(model, VideoClassifier)
    layout = OfficialLayout("eva" if model.backbone.post_norm else "clip", retrieval=retrieval)
    _check_side(model.side, layout)
    num_blocks = len(model.side.blocks)
    ours = model.trainable_state()
    if isinstance(model, VideoClassifier):
        names = side_names(layout, num_blocks, final_norm=layout.dialect == "clip")
        names |= {"head.weight": ("fc.weight",), "head.bias": ("fc.bias",)}
    else:
        names = retrieval_names(layout, num_blocks, text=model.text, wti=model.wti is not None)
        if not model.train_text:
            ours |= {f"text.{name}": value for name, value in model.text.state_dict().items()}
    differing = sorted(names.keys() ^ ours.keys())
    if differing:
        raise CheckpointError(f"the released code has no place for, or also needs: {', '.join(differing[:5])}")
    state: dict[str, Tensor] = {}
    for name, value in ours.items():
        state |= _split(names[name], value.detach().cpu())
    state |= _frozen(tower.state_dict(), layout)
    half = retrieval and layout.dialect == "clip"
    # copies: files may not share memory between their tensors
    return {key: _in_half(key, value).clone() if half else value.clone() for key, value in sorted(state.items())}


def _check_side(side: SideNetwork, layout: OfficialLayout) -> None:
    spec, released = side.spec, SideSpec.for_dialect(layout.dialect, retrieval=layout.retrieval)
    released = replace(released, width=spec.width)
    wrong = [
        f"side.{field.name}={getattr(spec, field.name)} (there: {getattr(released, field.name)})"
        for field in fields(spec)
        if field.name not in _FREE_FIELDS and getattr(spec, field.name) != getattr(released, field.name)
    ]
    if spec.heads != released.heads:
        wrong.append(f"side.num_heads={spec.heads} (there: {released.heads})")
    if wrong:
        raise CheckpointError(f"the released code's {layout.dialect} side network has no {', '.join(wrong)}")
    rows, columns = side.grid_YX
    if rows != columns:
        raise CheckpointError(f"the released code needs a square patch grid; got {rows} x {columns}")


def _split(theirs: tuple[str, ...], value: Tensor) -> dict[str, Tensor]:
    parts = value.chunk(len(theirs)) if len(theirs) > 1 else (value,)
    return {key: _shaped(key, part) for key, part in zip(theirs, parts, strict=True)}


def _shaped(key: str, value: Tensor) -> Tensor:
    """With the unit axes of their convolutions."""
    if _POINTWISE.search(key):
        return value.reshape(*value.shape[:2], 1, 1, 1)
    if _DEPTHWISE.search(key):
        return value.reshape(value.shape[0], 1, -1, 1, 1)
    return value


def _frozen(tower: dict[str, Tensor], layout: OfficialLayout) -> dict[str, Tensor]:
    """The image tower; what retrieval trains after the blocks comes from the model, and recognition with CLIP has no
    such keys."""
    dropped = AFTER_BLOCKS[layout.dialect] if layout.retrieval or layout.dialect == "clip" else frozenset[str]()
    return {f"{layout.visual}{key}": value.detach().cpu() for key, value in tower.items() if key not in dropped}


def _in_half(key: str, value: Tensor) -> Tensor:
    if not _HALF_IN_RETRIEVAL.search(key):
        return value
    half = value.half()
    return half if torch.equal(half.float(), value) else value
