"""Builds a text-video model, both towers included, from a released retrieval checkpoint (CLIP or EVA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from side4video.backbones import create_backbone
from side4video.backbones.released import image_trunk, text_tower
from side4video.official.contents import retrieval_contents
from side4video.official.names import retrieval_names
from side4video.official.parts import layout_of, our_state
from side4video.tasks.retrieval import VideoTextModel

__all__ = ["load_retrieval", "retrieval_names"]


def load_retrieval(
    state: Mapping[str, Tensor],
    *,
    num_heads: int | None,
    side_blocks: Sequence[int] | None,
    text_heads: int | None,
) -> VideoTextModel:
    """The model of a flat float32 state dict, in eval mode. `from_official` explains the hints.

    Raises:
        CheckpointError: keys left over or missing, shapes or hints that do not fit.
    """
    layout = layout_of(state, task="retrieval")
    found = retrieval_contents(state, layout, side_blocks=side_blocks, text_heads=text_heads)
    backbone = create_backbone(image_trunk(found.trunk, layout.dialect, heads=num_heads), precision="fp32")
    model = VideoTextModel(
        backbone,
        text_tower(found.text, layout.dialect, heads=text_heads),
        side=found.spec,
        interaction="mean" if found.wti_width is None else "wti",
        interaction_width=found.wti_width,
        # with CLIP the released code overwrites the video mask; mean pooling never looks at it
        ignore_video_mask=("wti", "mean") if layout.dialect == "clip" else ("mean",),
    )
    model.load_trainable_state(our_state(state, found.names, model.trainable_state()))
    return model.float().eval()
