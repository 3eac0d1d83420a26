"""Backbone and side network together: the only file where the two meet.

The frozen blocks stream past; after each tapped one the side network takes its tokens and moves on. Nothing frozen is
kept for the backward pass but what the projections need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.stored import stream_stored
from side4video.backbones.trunk import LayerTokens
from side4video.batch import StoredTokens
from side4video.side.network import MemoryMode, SideNetwork, SideOutput
from side4video.side.spec import SideSpec

# frames that a frozen block runs over at a time in the memory modes other than fast: enough to keep a device busy
LEAN_FRAME_SLICE = 32
SMALLEST_FRAME_SLICE = 16


class Side4Video(nn.Module):
    """A frozen image backbone and the trainable side network beside it.

    `frame_slice` runs each frozen block over that many frames at a time; default: all of them with memory "fast", 16
    with "smallest", 32 otherwise. The numbers do not change.
    """

    def __init__(self, backbone: FrozenBackbone, side: SideNetwork, *, frame_slice: int | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.side = side
        if frame_slice is None and side.memory != "fast":
            frame_slice = SMALLEST_FRAME_SLICE if side.memory == "smallest" else LEAN_FRAME_SLICE
        self.frame_slice = frame_slice

    def forward(self, clip_BTCHW: Tensor, stored: StoredTokens | None = None) -> SideOutput:
        """Features of normalised clips, any number of frames. With `stored` tokens the backbone does not run.

        Raises:
            ValueError: a tensor that is not BTCHW with three channels, or a tap that is not stored.
        """
        _check_clip(clip_BTCHW)
        return self.side(clip_BTCHW, self._layers(clip_BTCHW, self.side.taps, stored))

    def forward_with_last(
        self, clip_BTCHW: Tensor, stored: StoredTokens | None = None
    ) -> tuple[SideOutput, LayerTokens]:
        """As `forward`, and the tokens of the last frozen block, which retrieval's frame embeddings start from.

        Raises:
            ValueError: as `forward`.
        """
        _check_clip(clip_BTCHW)
        final = self.backbone.depth - 1
        last: list[LayerTokens] = []

        def tapped() -> Iterator[LayerTokens]:
            taps = sorted({*self.side.taps, final})
            for layer in self._layers(clip_BTCHW, taps, stored):
                if layer.layer == final:
                    last.append(layer)
                if layer.layer in self.side.taps:
                    yield layer

        # the side network asks for one layer more than it has taps, so the stream always reaches the last block
        output = self.side(clip_BTCHW, tapped())
        return output, last[0]

    def side_features(self, clip_BTCHW: Tensor) -> list[Tensor]:
        """BTNS patches after each side block, before the final norm.

        Raises:
            ValueError: as `forward`.
        """
        _check_clip(clip_BTCHW)
        first_patch = int(self.side.carries_token)
        stream = self.side.stream(clip_BTCHW, self._layers(clip_BTCHW, self.side.taps))
        return [side_BTMS[:, :, first_patch:] for side_BTMS in stream]

    def _layers(
        self, clip_BTCHW: Tensor, taps: Sequence[int], stored: StoredTokens | None = None
    ) -> Iterator[LayerTokens]:
        if stored is not None:
            return stream_stored(stored, taps, device=clip_BTCHW.device)
        return self.backbone.stream(clip_BTCHW, taps, frame_slice=self.frame_slice)


def make_side_network(
    backbone: FrozenBackbone,
    spec: SideSpec | None = None,
    *,
    memory: MemoryMode = "fast",
    generator: torch.Generator | None = None,
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
        memory=memory,
        generator=generator,
    )


def _check_clip(clip_BTCHW: Tensor) -> None:
    if clip_BTCHW.dim() != 5 or clip_BTCHW.shape[2] != 3:
        raise ValueError(f"a clip must be BTCHW with C = 3; got a tensor of shape {tuple(clip_BTCHW.shape)}")
