"""The probe is a fair one: it finds what is linearly there, and nothing that depends on the order of frames."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from side4video.batch import VideoBatch
from side4video.demo.probe import frame_average_features, linear_probe


def blobs(num: int, *, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres_KE = 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(99))
    labels_V = torch.randint(5, (num,), generator=generator)
    return centres_KE[labels_V] * 10 + 4 + 10 * noise * torch.randn(num, 7, generator=generator), labels_V


def test_it_separates_what_is_separable() -> None:
    (train_VE, labels_V), (val_VE, val_labels_V) = blobs(200, noise=0.3, seed=0), blobs(90, noise=0.3, seed=1)
    result = linear_probe(train_VE, labels_V, val_VE, num_classes=5, seed=0)
    assert (result.logits_VK.argmax(1) == val_labels_V).float().mean() > 0.98


def test_a_stronger_decay_fits_noise_less() -> None:
    labels_V = torch.randint(5, (160,), generator=torch.Generator().manual_seed(8))
    noise_VE = torch.randn(160, 90, generator=torch.Generator().manual_seed(9))
    fits = [linear_probe(noise_VE, labels_V, noise_VE, num_classes=5, seed=0, decays=d) for d in ((1e-4,), (1.0,))]
    accuracies = [(fit.logits_VK.argmax(1) == labels_V).float().mean() for fit in fits]
    assert accuracies[0] > accuracies[1] + 0.1
    assert [fit.decay for fit in fits] == [1e-4, 1.0]


def test_it_reaches_the_minimum_of_its_convex_problem() -> None:
    """The gradient vanishes: more iterations would give the same classifier."""
    from side4video.demo.probe import _fit

    features_VE, labels_V = blobs(120, noise=1.0, seed=6)
    features_VE = (features_VE - features_VE.mean(0)) / features_VE.std(0)
    weight_KE, bias_K = (t.requires_grad_() for t in _fit(features_VE, labels_V, 5, 1e-2))
    loss = nn.functional.cross_entropy(features_VE @ weight_KE.T + bias_K, labels_V)
    (loss + 0.005 * weight_KE.square().sum()).backward()
    assert weight_KE.grad is not None
    assert weight_KE.grad.abs().max() < 1e-3


class MeanColour:
    """A stand-in for a backbone: an embedding of each frame alone."""

    device = torch.device("cpu")

    def features(self, clip_BTCHW: torch.Tensor) -> torch.Tensor:
        return clip_BTCHW.mean(dim=(3, 4)) ** 3


def test_features_are_averaged_over_frames_whatever_their_order() -> None:
    clip_BTCHW = torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(7))
    labels_B = torch.tensor([1, 3])

    def batch(clip: torch.Tensor) -> VideoBatch:
        return VideoBatch(clip, labels_B, labels_B, torch.zeros(2, dtype=torch.int64))

    backbone = MeanColour()
    features_VE, labels_V = frame_average_features(backbone, [batch(clip_BTCHW), batch(clip_BTCHW.flip(1))])  # type: ignore[arg-type]
    assert labels_V.tolist() == [1, 3, 1, 3]
    assert features_VE.shape == (4, 3)
    torch.testing.assert_close(features_VE[:2], features_VE[2:])
    torch.testing.assert_close(features_VE[:2], (clip_BTCHW.mean(dim=(3, 4)) ** 3).mean(1))
    assert pytest.approx(features_VE[0, 0].item()) != (clip_BTCHW.mean(dim=(3, 4)).mean(1) ** 3)[0, 0].item()
