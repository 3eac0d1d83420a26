"""The baseline of the demo: a linear classifier on the frozen embedding, averaged over the frames of a clip.

It sees what the image model knows, and not in which order the frames came. It is trained as well as it can be: full
batches to convergence, with the weight decay chosen on a part of the training clips.

Shapes: V, clips of a split. E, width of the frozen embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from side4video.backbones.base import FrozenBackbone
from side4video.batch import VideoBatch

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT_SHARE = 0.25
MAX_ITERATIONS = 300


@dataclass(frozen=True)
class ProbeResult:
    """`logits_VK` of the validation clips, and the weight decay that was chosen."""

    logits_VK: Tensor
    decay: float


@torch.no_grad()
def frame_average_features(backbone: FrozenBackbone, loader: Iterable[VideoBatch]) -> tuple[Tensor, Tensor]:
    """`features_VE` (float32, on the CPU) and `labels_V` of every clip that can be read."""
    features: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in loader:
        if len(batch):
            clip_BTCHW = batch.clip_BTCHW.to(backbone.device)
            features.append(backbone.features(clip_BTCHW).float().mean(dim=1).cpu())
            labels.append(batch.labels_B)
    return torch.cat(features), torch.cat(labels)


def linear_probe(
    train_VE: Tensor,
    train_labels_V: Tensor,
    val_VE: Tensor,
    *,
    num_classes: int,
    seed: int,
    decays: Sequence[float] = DECAYS,
) -> ProbeResult:
    """Logistic regression on standardised features; the decay is the one that is best on held-out training clips."""
    mean_E, std_E = train_VE.mean(dim=0), train_VE.std(dim=0).clamp_min(1e-6)
    train_VE, val_VE = (train_VE - mean_E) / std_E, (val_VE - mean_E) / std_E
    order_V = torch.randperm(len(train_VE), generator=torch.Generator().manual_seed(seed))
    held, kept = order_V.tensor_split([int(HELD_OUT_SHARE * len(order_V))])
    scored: list[tuple[float, float]] = []
    for decay in decays:
        classifier = _fit(train_VE[kept], train_labels_V[kept], num_classes, decay)
        right = (_logits(classifier, train_VE[held]).argmax(dim=1) == train_labels_V[held]).float().mean()
        scored.append((float(right), decay))
    decay = max(scored)[1]  # between equals the stronger decay
    classifier = _fit(train_VE, train_labels_V, num_classes, decay)
    return ProbeResult(_logits(classifier, val_VE), decay)


def _fit(features_VE: Tensor, labels_V: Tensor, num_classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Weights and biases that minimise mean cross entropy + decay / 2 * |weights|^2; the problem is convex."""
    weight_KE = torch.zeros(num_classes, features_VE.shape[1], requires_grad=True)
    bias_K = torch.zeros(num_classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight_KE, bias_K], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(features_VE @ weight_KE.T + bias_K, labels_V)
        loss = loss + decay / 2 * weight_KE.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weight_KE.detach(), bias_K.detach()


def _logits(classifier: tuple[Tensor, Tensor], features_VE: Tensor) -> Tensor:
    weight_KE, bias_K = classifier
    return features_VE @ weight_KE.T + bias_K
