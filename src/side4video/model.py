"""Backbone and side network together: the only file where the two meet.

The frozen blocks stream past; after each tapped one the side network takes its tokens and moves on. Nothing frozen is
kept for the backward pass but what the projections need.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone, LayerTokens
from side4video.side.network import SideNetwork, SideOutput
from side4video.side.spec import SideSpec


class Side4Video(nn.Module):
    """A frozen image backbone and the trainable side network beside it."""

    def __init__(self, backbone: FrozenBackbone, side: SideNetwork, *, frame_slice: int | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.side = side
        self.frame_slice = frame_slice

    def forward(self, clip_BTCHW: Tensor) -> SideOutput:
        """Features of normalised clips, any number of frames.

        Raises:
            ValueError: a tensor that is not BTCHW with three channels.
        """
        _check_clip(clip_BTCHW)
        return self.side(clip_BTCHW, self._layers(clip_BTCHW))

    def side_features(self, clip_BTCHW: Tensor) -> list[Tensor]:
        """BTNS patches after each side block, before the final norm.

        Raises:
            ValueError: as `forward`.
        """
        _check_clip(clip_BTCHW)
        first_patch = int(self.side.carries_token)
        stream = self.side.stream(clip_BTCHW, self._layers(clip_BTCHW))
        return [side_BTMS[:, :, first_patch:] for side_BTMS in stream]

    def _layers(self, clip_BTCHW: Tensor) -> Iterator[LayerTokens]:
        return self.backbone.stream(clip_BTCHW, self.side.taps, frame_slice=self.frame_slice)


def make_side_network(
    backbone: FrozenBackbone, spec: SideSpec | None = None, *, generator: torch.Generator | None = None
) -> SideNetwork:
    """A side network that fits this backbone; without a spec, in the dialect of the backbone's family.

    Raises:
        ConfigError: taps that the backbone does not have.
    """
    if spec is None:
        spec = SideSpec.for_dialect("eva" if backbone.post_norm else "clip")
    return SideNetwork(
        spec,
        backbone_width=backbone.width,
        depth=backbone.depth,
        grid_YX=backbone.grid(backbone.preprocessing.image_size),
        patch_size=backbone.patch_size,
        generator=generator,
    )


def _check_clip(clip_BTCHW: Tensor) -> None:
    if clip_BTCHW.dim() != 5 or clip_BTCHW.shape[2] != 3:
        raise ValueError(f"a clip must be BTCHW with C = 3; got a tensor of shape {tuple(clip_BTCHW.shape)}")
