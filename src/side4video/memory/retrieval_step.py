"""A text-video model in the shape of a classifier, so that a training step of it is estimated as any other.

The frames' embeddings, the text tower on as many captions as videos, the interaction of all with all and the loss over
them take the place of the classifier's head. Approximate in one point: the frames' own features are taken equal, which
changes no size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.trunk import LayerTokens
from side4video.memory.estimate import StepEstimate, estimate_step
from side4video.side.network import SideNetwork
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel


def estimate_retrieval_step(
    model: VideoTextModel,
    *,
    batch_size: int,
    num_frames: int,
    max_words: int,
    image_size: tuple[int, int],
    autocast: torch.dtype | None = torch.bfloat16,
) -> StepEstimate:
    """As `estimate_step`, of a batch of video-caption pairs; a frozen text tower counts among the side weights."""
    as_classifier = _AsClassifier(model, num_frames=num_frames, max_words=max_words)
    return estimate_step(
        cast("VideoClassifier", as_classifier),
        batch_size=batch_size,
        num_frames=num_frames,
        image_size=image_size,
        autocast=autocast,
    )


class _AsClassifier(nn.Module):
    """The members of a `VideoClassifier` that a step needs; captions are the classes."""

    def __init__(self, model: VideoTextModel, *, num_frames: int, max_words: int) -> None:
        super().__init__()
        self.video = model.video
        self.head = _Similarities(model, num_frames=num_frames, max_words=max_words)

    @property
    def backbone(self) -> FrozenBackbone:
        return self.video.backbone

    @property
    def side(self) -> SideNetwork:
        return self.video.side


class _Similarities(nn.Module):
    """From features of the videos to the scaled similarities with as many captions."""

    def __init__(self, model: VideoTextModel, *, num_frames: int, max_words: int) -> None:
        super().__init__()
        self.text, self.wti, self.frame_head = model.text, model.wti, model.frame_head
        self.side_proj, self.logit_scale = model.side_proj, model.logit_scale
        # held without being a module of this one: its parts are, and its backbone is the caller's
        self._model = [model]
        self.num_frames, self.max_words = num_frames, max_words

    def forward(self, features_BS: Tensor) -> Tensor:
        (model,) = self._model
        # weights may have been replaced here by ones that are only sizes
        model.side_proj, model.logit_scale = self.side_proj, self.logit_scale
        batch = features_BS.shape[0]
        frames_BTS = features_BS.unsqueeze(1).expand(-1, self.num_frames, -1)
        tokens_BTAD = features_BS.new_zeros(
            batch, self.num_frames, 1, model.backbone.width, dtype=model.backbone.precision
        )
        last = LayerTokens(model.backbone.depth - 1, tokens_BTAD, 1, has_class_token=True, grid_YX=(0, 0))
        frames_BTE = self.frame_head(model.backbone, last, frames_BTS @ self.side_proj)
        ids_MQ = torch.zeros(batch, self.max_words, dtype=torch.int64)
        tokens_MQE = model.encode_text(ids_MQ)
        ones_MQ = torch.ones(batch, self.max_words, dtype=torch.bool)
        ones_BT = torch.ones(batch, self.num_frames, dtype=torch.bool)
        # masks without numbers cannot be checked
        interaction = model.mean_pooling if self.wti is None else self.wti
        return interaction.compare(tokens_MQE, ones_MQ, ones_BT, frames_BTE) * self.logit_scale.exp()
