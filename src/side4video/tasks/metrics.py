"""Recognition metrics: scores of all views of a video averaged after softmax, then counted once per video.

Sums and counts are kept per record of the manifest, so that views may come in any order, from any process, and a
record that reaches two processes is still one video. Division happens once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RecognitionReport:
    """`top1`, `top5` and `mean_class` are shares in 0..1; `per_class_K` is NaN-free only where `videos_K` > 0.

    `confusion_KK[i, j]` counts videos of class i that were called j. `mean_class` averages over the classes that occur.
    """

    top1: float
    top5: float
    mean_class: float
    num_videos: int
    correct_K: Tensor
    videos_K: Tensor
    confusion_KK: Tensor

    def as_dict(self) -> dict[str, Any]:
        """The numbers that `--json` prints."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "num_videos": self.num_videos,
        }


class RecognitionMetrics:
    """Collects softmax scores of views by record.

    Raises:
        ValueError: fewer than one class.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1; got {num_classes}")
        self.num_classes = num_classes
        self._views: dict[int, dict[int, Tensor]] = {}
        self._labels: dict[int, int] = {}

    def update(self, logits_BK: Tensor, labels_B: Tensor, indices_B: Tensor, views_B: Tensor) -> None:
        """Add B views. The same view of the same record again replaces itself.

        Raises:
            ValueError: NaN or infinite logits, a wrong number of classes, or a record that comes with two labels.
        """
        if logits_BK.shape[-1] != self.num_classes:
            raise ValueError(f"logits must have {self.num_classes} classes; got {logits_BK.shape[-1]}")
        if not torch.isfinite(logits_BK).all():
            bad = indices_B[(~torch.isfinite(logits_BK)).any(1).to(indices_B.device)].tolist()
            raise ValueError(f"logits must be finite; got NaN or infinity for records {bad[:5]}")
        scores_BK = logits_BK.detach().double().softmax(-1).cpu()
        for scores_K, label, index, view in zip(
            scores_BK, labels_B.tolist(), indices_B.tolist(), views_B.tolist(), strict=True
        ):
            if self._labels.setdefault(index, label) != label:
                raise ValueError(f"record {index} came with two labels: {self._labels[index]} and {label}")
            self._views.setdefault(index, {})[view] = scores_K

    def merge(self, other: RecognitionMetrics) -> None:
        """Take over another process's records; a view that both have counts once.

        Raises:
            ValueError: another number of classes, or a record with two labels.
        """
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge metrics of {other.num_classes} and {self.num_classes} classes")
        for index, views in other._views.items():
            if self._labels.setdefault(index, other._labels[index]) != other._labels[index]:
                raise ValueError(f"record {index} came with two labels")
            self._views.setdefault(index, {}).update(views)

    def state(self) -> dict[str, Tensor]:
        """Everything collected as plain tensors, for gathering between processes."""
        rows = [(index, view) for index, views in sorted(self._views.items()) for view in sorted(views)]
        scores = [self._views[index][view] for index, view in rows]
        return {
            "indices": torch.tensor([index for index, _ in rows], dtype=torch.int64),
            "views": torch.tensor([view for _, view in rows], dtype=torch.int64),
            "labels": torch.tensor([self._labels[index] for index, _ in rows], dtype=torch.int64),
            "scores": torch.stack(scores) if scores else torch.zeros(0, self.num_classes, dtype=torch.float64),
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> RecognitionMetrics:
        """What `state` gave, collected again."""
        metrics = cls(state["scores"].shape[1])
        for scores_K, label, index, view in zip(
            state["scores"], state["labels"].tolist(), state["indices"].tolist(), state["views"].tolist(), strict=True
        ):
            metrics._labels[index] = label
            metrics._views.setdefault(index, {})[view] = scores_K
        return metrics

    def scores(self) -> dict[int, Tensor]:
        """Score vector (K, sums to one) of each record, averaged over its views."""
        # sorted, so that the sum does not depend on the order in which views arrived
        return {
            index: torch.stack([views[view] for view in sorted(views)]).mean(0)
            for index, views in sorted(self._views.items())
        }

    def labels(self) -> dict[int, int]:
        """Label of each record."""
        return dict(sorted(self._labels.items()))

    def compute(self) -> RecognitionReport:
        """All metrics over the records so far. A tie counts against us.

        Raises:
            ValueError: no record has come, or a label outside the classes.
        """
        scores = self.scores()
        if not scores:
            raise ValueError("no video has been scored: there is nothing to compute metrics from")
        labels_V = torch.tensor([self._labels[index] for index in scores])
        if labels_V.min() < 0 or labels_V.max() >= self.num_classes:
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}; got {labels_V.min()}..{labels_V.max()}")
        scores_VK = torch.stack(list(scores.values()))
        own_V1 = scores_VK.gather(1, labels_V[:, None])
        rank_V = (scores_VK >= own_V1).sum(1)  # 1 is best; ties push it down
        confusion_KK = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        confusion_KK.index_put_((labels_V, scores_VK.argmax(1)), torch.ones_like(labels_V), accumulate=True)
        videos_K = torch.bincount(labels_V, minlength=self.num_classes)
        correct_K = torch.bincount(labels_V[rank_V == 1], minlength=self.num_classes)
        seen = videos_K > 0
        num_videos = len(scores)
        return RecognitionReport(
            top1=int((rank_V == 1).sum()) / num_videos,
            top5=int((rank_V <= 5).sum()) / num_videos,
            mean_class=float((correct_K[seen].double() / videos_K[seen].double()).mean()),
            num_videos=num_videos,
            correct_K=correct_K,
            videos_K=videos_K,
            confusion_KK=confusion_KK,
        )
