"""One training step as a module: from pixels to the loss, so that whatever wraps it wraps all of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from side4video.batch import StoredTokens
from side4video.tasks.losses import classification_loss
from side4video.tasks.recognition import VideoClassifier


class TrainStep(nn.Module):
    """The classifier and its loss."""

    def __init__(self, model: VideoClassifier, *, smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.smoothing = smoothing

    def forward(
        self,
        clip_BTCHW: Tensor | None,
        labels_B: Tensor | None,
        labels_BK: Tensor | None,
        share: float,
        stored: StoredTokens | None = None,
        *,
        others_run: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """`share` times the mean loss, and [sum of losses, clips called right, clips] of the batch.

        Without clips (all of a process's batch was broken) the loss is a 0 that reaches every trained parameter, so
        that this process still meets the others when gradients are summed; `others_run` says that they run the
        backbone meanwhile.
        """
        if clip_BTCHW is None or labels_B is None:
            if others_run:
                self.model.take_part()
            trained = [parameter.sum() for parameter in self.model.parameters() if parameter.requires_grad]
            zero = torch.stack([value.float() for value in trained]).sum() * 0.0
            return zero, zero.new_zeros(3)
        logits_BK = self.model(clip_BTCHW, stored)
        loss = classification_loss(logits_BK, labels_B, labels_BK=labels_BK, smoothing=self.smoothing)
        count = labels_B.shape[0]
        right = (logits_BK.detach().argmax(1) == labels_B).sum().to(loss.dtype)
        return loss * share, torch.stack([loss.detach() * count, right, right.new_tensor(float(count))])


def batch_generator(seed: int, epoch: int, batch: int, rank: int) -> torch.Generator:
    """A generator that depends on nothing but the place of a batch, so that a resumed run draws the same."""
    words = np.random.SeedSequence([seed, epoch, batch, rank]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
