"""Losses of the tasks.

Source: Side4Video, arXiv:2311.15769, training details; the released code's label-smoothing cross entropy.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits_BK: Tensor, labels_B: Tensor, *, labels_BK: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross entropy, mean over the batch, in float32: `(1 - s) * nll + s * mean_k(-log p_k)`.

    Soft labels `labels_BK` (after mixup or cutmix) take the place of `labels_B`.

    Raises:
        ValueError: smoothing outside 0..1.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and less than 1; got {smoothing}")
    target = labels_B if labels_BK is None else labels_BK.float()
    return F.cross_entropy(logits_BK.float(), target, label_smoothing=smoothing)
