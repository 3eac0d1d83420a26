"""What a model says of a window: the share of each class, or how well each of some sentences fits.

A scorer is a model with what it takes to use it on its own windows: how many frames one has, which pixels it wants,
and the names of its scores. Several scorers with the same backbone object and the same pixels share one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.data.transforms import TestTransform
from side4video.side.network import SideNetwork
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.windows import SeenClips

Transform = Callable[[Tensor], Tensor]
"""uint8 frames TCHW of any size to normalised float32 of the input size; equal ones (`==`) give equal pixels."""


@dataclass(frozen=True)
class MiddleCrop:
    """The one middle crop of evaluation, frame by frame."""

    views: TestTransform

    def __call__(self, frames_TCHW: Tensor) -> Tensor:
        """uint8 frames of any size to normalised float32 of the input size."""
        return self.views(frames_TCHW)[0]


class Scorer(Protocol):
    """What scores windows. `exclusive`: the scores are shares of which only one label can be true at a time."""

    @property
    def name(self) -> str:
        """What to call it: the folder of its run."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """What its K scores stand for."""
        ...

    @property
    def exclusive(self) -> bool: ...

    @property
    def num_frames(self) -> int:
        """Frames of one of its windows."""
        ...

    @property
    def transform(self) -> Transform: ...

    @property
    def side(self) -> SideNetwork: ...

    @property
    def backbone(self) -> FrozenBackbone: ...

    @property
    def needs_last(self) -> bool:
        """Whether it looks at the last frozen block too, whether or not its side network taps it."""
        ...

    def scores(self, windows: SeenClips) -> Tensor:
        """`scores_BK` of windows whose frames have passed the backbone, float32 on the CPU."""
        ...


@dataclass(frozen=True, eq=False)
class ClassScorer:
    """A classifier: its scores are shares that sum to one."""

    name: str
    model: VideoClassifier
    num_frames: int
    transform: Transform
    exclusive: bool = True
    needs_last: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, or their numbers where the model has none."""
        return self.model.class_names or tuple(str(number) for number in range(self.model.head.out_features))

    @property
    def side(self) -> SideNetwork:
        """Its side network."""
        return self.model.side

    @property
    def backbone(self) -> FrozenBackbone:
        """Its frozen model."""
        return self.model.backbone

    def scores(self, windows: SeenClips) -> Tensor:
        """`scores_BK`: softmax over the classes."""
        logits_BK = self.model.head(self.model.encode_windows(windows).mean(1))
        return logits_BK.float().softmax(-1).cpu()


@dataclass(frozen=True, eq=False)
class SentenceScorer:
    """A retrieval model and some sentences: each score is the model's own similarity, as `search` shows it.

    `tokens_KQE` and `mask_KQ` are the sentences as `encode_text` gives them, in the order of `labels`.
    """

    name: str
    model: VideoTextModel
    labels: tuple[str, ...]
    tokens_KQE: Tensor
    mask_KQ: Tensor
    num_frames: int
    transform: Transform
    exclusive: bool = False
    needs_last: bool = True

    @property
    def side(self) -> SideNetwork:
        """Its side network."""
        return self.model.side

    @property
    def backbone(self) -> FrozenBackbone:
        """Its frozen model."""
        return self.model.backbone

    def scores(self, windows: SeenClips) -> Tensor:
        """`scores_BK`: similarities, which have no fixed scale."""
        frames_BTE = self.model.encode_windows(windows).float()
        mask_BT = torch.ones(frames_BTE.shape[:2], dtype=torch.bool, device=frames_BTE.device)
        sim_KB = self.model.similarity(self.tokens_KQE, self.mask_KQ, frames_BTE, mask_BT)
        return sim_KB.T.float().cpu()


def pass_key(scorer: Scorer) -> Hashable:
    """Scorers with equal keys look at the same pixels through the same backbone."""
    return id(scorer.backbone), scorer.transform
