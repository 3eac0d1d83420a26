"""Mixup and CutMix of whole clips: torchvision's, with every random draw from a given generator."""

from __future__ import annotations

from dataclasses import replace

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from side4video.batch import VideoBatch


class Mixer:
    """Mixes the clips of a batch with one another; with both kinds on, each batch draws one of them.

    `mixup` and `cutmix` are the alphas of the published methods; 0 switches a kind off.

    Raises:
        ValueError: a negative alpha.
    """

    def __init__(self, num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        if mixup < 0 or cutmix < 0:
            raise ValueError(f"mixup and cutmix must not be negative; got {mixup} and {cutmix}")
        self._kinds: list[v2.Transform] = []
        if mixup:
            self._kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            self._kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __call__(self, batch: VideoBatch, generator: torch.Generator) -> VideoBatch:
        """The batch with mixed clips and soft labels `labels_BK`.

        It is unchanged when nothing is switched on, B < 2, or it is mixed already.
        """
        if not self._kinds or len(batch) < 2 or batch.labels_BK is not None:
            return batch
        seed = int(torch.randint(2**62, (), generator=generator))
        # torchvision draws from the global generator: lend it a state of our own for this call
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kind = self._kinds[int(torch.randint(len(self._kinds), ()))]
            clip_BTCHW, labels_BK = kind(tv_tensors.Video(batch.clip_BTCHW), batch.labels_B)
        return replace(batch, clip_BTCHW=clip_BTCHW.as_subclass(torch.Tensor), labels_BK=labels_BK)
