"""Text-video retrieval: captions and videos as vectors in one space, one a token and one a frame.

A frame's embedding is the frozen class token of its last block plus the side network's frame feature, projected to the
backbone's width by `side_proj`; then norm and projection as the image model itself does it, with trainable copies of
its weights. `side_proj` starts at zero, so an untrained model is the plain image-text model, frame by frame.

Source: Side4Video, arXiv:2311.15769, text-video retrieval. We differ for image towers that do not embed their class
token alone (SigLIP, average pooling), which the paper does not have: there `side_proj` goes to the joint space and is
added to the frozen embedding. `JointSpaceHead` says how.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from typing import Literal, cast

import torch
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.frame_head import require_embedding
from side4video.backbones.text import WHAT_WORKS, TextEncoder
from side4video.batch import StoredTokens
from side4video.errors import BackboneError, CheckpointError, ConfigError
from side4video.model import Side4Video, make_side_network
from side4video.side.network import MemoryMode, SideNetwork
from side4video.side.spec import SideSpec
from side4video.tasks.similarity import MeanPooling, WeightedTokenInteraction
from side4video.windows import SeenClips

Interaction = Literal["wti", "mean"]
MAX_LOGIT_SCALE = 4.605170185988092  # ln 100
WEIGHT_STD = 0.02


class VideoTextModel(nn.Module):
    """Videos and captions to vectors, and their similarities.

    The backbone freezes itself; `side`, `side_proj`, `frame_head` (copies of the image tower's last norm and
    projection), the WTI networks and `logit_scale` train. The text tower trains too, unless `train_text` is off: then
    it stays in eval mode, gets no gradients and is not part of the trained state.

    `side` is a network, its settings, or nothing for the published retrieval settings of the backbone's family.
    `interaction` is what training and `similarity` use; `interaction_width` the hidden width of the WTI networks
    (default: the joint width). `ignore_video_mask` names the interactions that take every frame for real, as the
    released code does. `memory` is what training keeps of the side network. `generator` draws the initial
    weights; without one, torch's global generator does.

    Raises:
        BackboneError: a backbone without a text tower, or with one of another space; the message says what works.
        ConfigError: an unknown interaction, or taps that the backbone does not have.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        text: TextEncoder,
        *,
        side: SideNetwork | SideSpec | None = None,
        interaction: Interaction = "wti",
        interaction_width: int | None = None,
        ignore_video_mask: Collection[Interaction] = (),
        train_text: bool = True,
        memory: MemoryMode = "fast",
        frame_slice: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if interaction not in ("wti", "mean"):
            raise ConfigError(f"interaction must be wti or mean; got {interaction!r}")
        if not isinstance(text, nn.Module):
            raise BackboneError(
                f"backbone {backbone.name!r} has no text tower: got {type(text).__name__}; {WHAT_WORKS}"
            )
        self.frame_head = require_embedding(backbone, text.embed_dim, what_works=WHAT_WORKS)
        if not isinstance(side, SideNetwork):
            side = make_side_network(backbone, side or retrieval_spec(backbone), memory=memory, generator=generator)
        self.video = Side4Video(backbone, side, frame_slice=frame_slice)
        self.side_proj = nn.Parameter(torch.zeros(side.spec.width, self.frame_head.added_width))
        self.text = text
        self.train_text = train_text
        self.text.requires_grad_(requires_grad=train_text)
        self.logit_scale = nn.Parameter(torch.tensor(float(text.logit_scale_init)))
        self.interaction: Interaction = interaction
        self.wti: WeightedTokenInteraction | None = None
        if interaction == "wti":
            self.wti = WeightedTokenInteraction(
                text.embed_dim, hidden=interaction_width, ignore_video_mask="wti" in ignore_video_mask
            )
            _initialise(self.wti, generator)
        self.mean_pooling = MeanPooling(ignore_video_mask="mean" in ignore_video_mask)
        self.train(self.training)

    @property
    def backbone(self) -> FrozenBackbone:
        """The frozen image model."""
        return self.video.backbone

    @property
    def side(self) -> SideNetwork:
        """The trainable side network."""
        return self.video.side

    @property
    def text_tower(self) -> TextEncoder:
        """The text tower."""
        return cast("TextEncoder", self.text)

    @property
    def embed_dim(self) -> int:
        """Joint width E."""
        return self.frame_head.embed_dim

    def train(self, mode: bool = True) -> VideoTextModel:
        """As `nn.Module.train`; a frozen text tower stays in eval mode."""
        super().train(mode)
        if not self.train_text:
            self.text.eval()
        return self

    def forward(self, clip_BTCHW: Tensor, ids_MQ: Tensor, stored: StoredTokens | None = None) -> tuple[Tensor, Tensor]:
        """`frames_BTE` and `tokens_MQE`: what a training step needs of one batch.

        Raises:
            ValueError: as `encode_video` and `encode_text`.
        """
        return self.encode_video(clip_BTCHW, stored), self.encode_text(ids_MQ)

    def encode_video(self, clip_BTCHW: Tensor, stored: StoredTokens | None = None) -> Tensor:
        """`frames_BTE` of normalised clips, one vector a frame, not normalised. With `stored` tokens, the last block's
        among them, no frozen block runs.

        Raises:
            ValueError: a tensor that is not BTCHW with three channels, or a layer that is not stored.
        """
        output, last = self.video.forward_with_last(clip_BTCHW, stored)
        return self.frame_head(self.backbone, last, output.frames_BTS @ self.side_proj)

    def encode_windows(self, windows: SeenClips) -> Tensor:
        """`frames_BTE` of windows whose frames have passed the backbone, as `encode_video` gives them; the stream must
        tap the last block too."""
        output = windows.run(self.side)
        last = windows.layer(self.backbone.depth - 1)
        return self.frame_head(self.backbone, last, output.frames_BTS @ self.side_proj)

    def encode_text(self, ids_MQ: Tensor) -> Tensor:
        """`tokens_MQE` of captions as token ids, one vector a token (start and end included), not normalised.

        Raises:
            ValueError: ids that are not MQ integers, or more of them than the text tower takes.
        """
        with nullcontext() if self.train_text else torch.no_grad():
            return self.text(ids_MQ)

    def take_part(self) -> None:
        """For a process without clips while others have some: see `FrozenBackbone.take_part`."""
        self.backbone.take_part([self.backbone.depth - 1])

    def similarity(
        self,
        tokens_MQE: Tensor,
        mask_MQ: Tensor,
        frames_VTE: Tensor,
        mask_VT: Tensor,
        *,
        interaction: Interaction | None = None,
    ) -> Tensor:
        """`sim_MV`, float32: what captions and videos are ranked by.

        WTI is an average of cosines; mean pooling is a cosine times `exp(logit_scale)`. `interaction` asks for another
        one than the model's own; mean pooling is always there.

        Raises:
            ValueError: shapes or masks that do not fit, or WTI asked of a model that was made without it.
        """
        return self._scaled(tokens_MQE, mask_MQ, frames_VTE, mask_VT, interaction=interaction, training=False)

    def training_similarity(self, tokens_MQE: Tensor, mask_MQ: Tensor, frames_VTE: Tensor, mask_VT: Tensor) -> Tensor:
        """`sim_MV` times `exp(logit_scale)`, what the contrastive loss takes.

        Raises:
            ValueError: as `similarity`.
        """
        return self._scaled(tokens_MQE, mask_MQ, frames_VTE, mask_VT, interaction=None, training=True)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep `exp(logit_scale)` at 100 or less; training calls this after every step."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def named_trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What trains, under the names of `trainable_state`."""
        trained = {id(p): name for name, p in self.trainable_state(keep_vars=True).items()}
        for parameter in self.parameters():
            if id(parameter) in trained:
                yield trained[id(parameter)], parameter

    def trainable_state(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """Parameters and buffers of everything that trains; the tensors are not copied.

        Names: `side.*`, `side_proj`, `frame_head.*`, `wti.*`, `logit_scale`, and `text.*` when the text tower trains.
        """
        state: dict[str, Tensor] = {}
        for name, part in self._trained_parts().items():
            if isinstance(part, nn.Parameter):
                state[name] = part if keep_vars else part.detach()
            else:
                inner = part.state_dict(keep_vars=keep_vars)
                state |= {f"{name}.{key}": value for key, value in inner.items()}
        return state

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trainable_state` gave; every name and shape must match.

        Raises:
            CheckpointError: missing or unknown names, or other shapes; nothing has been loaded then.
        """
        own = self.trainable_state()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise CheckpointError(
                f"the weights do not fit this model: {len(missing)} missing {missing[:3]}, "
                f"{len(unknown)} unknown {unknown[:3]}"
            )
        for name, value in own.items():
            if value.shape != state[name].shape:
                raise CheckpointError(
                    f"the weights do not fit this model: {name} is {tuple(value.shape)} here "
                    f"and {tuple(state[name].shape)} there"
                )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])

    def _trained_parts(self) -> dict[str, nn.Module | nn.Parameter]:
        parts: dict[str, nn.Module | nn.Parameter] = {
            "side": self.side,
            "side_proj": self.side_proj,
            "frame_head": self.frame_head,
            "logit_scale": self.logit_scale,
        }
        if self.wti is not None:
            parts["wti"] = self.wti
        if self.train_text:
            parts["text"] = self.text
        return parts

    def _scaled(
        self,
        tokens_MQE: Tensor,
        mask_MQ: Tensor,
        frames_VTE: Tensor,
        mask_VT: Tensor,
        *,
        interaction: Interaction | None,
        training: bool,
    ) -> Tensor:
        kind = interaction or self.interaction
        if kind == "wti" and self.wti is None:
            raise ValueError("this model was made for mean pooling and has no WTI networks; use interaction='mean'")
        compare = self.wti if kind == "wti" and self.wti is not None else self.mean_pooling
        sim_MV = compare(tokens_MQE, mask_MQ, frames_VTE, mask_VT)
        # evaluation ranks by WTI unscaled, as the released code does
        return sim_MV * self.logit_scale.exp() if training or kind == "mean" else sim_MV


def retrieval_spec(backbone: FrozenBackbone) -> SideSpec:
    """The published retrieval settings of the backbone's family."""
    return SideSpec.for_dialect("eva" if backbone.post_norm else "clip", retrieval=True)


def _initialise(wti: WeightedTokenInteraction, generator: torch.Generator | None) -> None:
    for module in wti.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=WEIGHT_STD, generator=generator)
            nn.init.zeros_(module.bias)
