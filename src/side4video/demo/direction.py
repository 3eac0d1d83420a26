"""The score that only the order of the frames can earn: which of two opposite classes a clip belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def direction_accuracy(
    scores_VK: Tensor, labels_V: Tensor, class_names: Sequence[str], opposites: Mapping[str, str]
) -> float:
    """Of the clips whose class has an opposite, the share where the true class scores above it; a tie is half.

    Raises:
        ValueError: no clip has a class with an opposite among `class_names`.
    """
    number = {name: index for index, name in enumerate(class_names)}
    opposite = {number[a]: number[b] for a, b in opposites.items() if a in number and b in number}
    points: list[float] = []
    for scores_K, label in zip(scores_VK, labels_V.tolist(), strict=True):
        if label in opposite:
            true, other = float(scores_K[label]), float(scores_K[opposite[label]])
            points.append(0.5 if true == other else float(true > other))
    if not points:
        raise ValueError("no clip has a class with an opposite")
    return sum(points) / len(points)
