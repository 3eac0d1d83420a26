"""Mixup, CutMix and the classification loss."""

from __future__ import annotations

import pytest
import torch

from side4video.batch import VideoBatch
from side4video.tasks.losses import classification_loss
from side4video.tasks.mixing import Mixer

B, T, H, W, K = 4, 5, 6, 8, 7


def make_batch() -> VideoBatch:
    clip_BTCHW = torch.arange(B, dtype=torch.float32).view(B, 1, 1, 1, 1).expand(B, T, 3, H, W).clone()
    return VideoBatch(clip_BTCHW, torch.tensor([0, 2, 4, 6]), torch.arange(B), torch.zeros(B, dtype=torch.int64))


def test_mixup_mixes_clips_as_it_mixes_labels() -> None:
    mixed = Mixer(K, mixup=0.8)(make_batch(), torch.Generator().manual_seed(0))
    assert mixed.labels_BK is not None
    torch.testing.assert_close(mixed.labels_BK.sum(1), torch.ones(B))
    # pixel value is the clip's number, its label twice that: the mixture must agree
    expected_B = (mixed.labels_BK * torch.arange(K) / 2).sum(1)
    torch.testing.assert_close(mixed.clip_BTCHW, expected_B.view(B, 1, 1, 1, 1).expand_as(mixed.clip_BTCHW))
    assert type(mixed.clip_BTCHW) is torch.Tensor


def test_cutmix_cuts_the_same_box_from_all_frames() -> None:
    mixed = Mixer(K, cutmix=1.0)(make_batch(), torch.Generator().manual_seed(1))
    assert torch.equal(mixed.clip_BTCHW, mixed.clip_BTCHW[:, :1].expand_as(mixed.clip_BTCHW))
    assert mixed.labels_BK is not None
    share_B = (mixed.clip_BTCHW[:, 0, 0] == torch.arange(B).view(B, 1, 1)).float().mean((1, 2))
    own_B = mixed.labels_BK[torch.arange(B), make_batch().labels_B]
    torch.testing.assert_close(own_B, share_B)


def test_the_generator_alone_decides() -> None:
    def run(global_seed: int, seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        mixed = Mixer(K, mixup=0.8, cutmix=1.0)(make_batch(), torch.Generator().manual_seed(seed)).clip_BTCHW
        assert torch.equal(before, torch.get_rng_state())
        return mixed

    assert torch.equal(run(0, 5), run(1, 5))
    assert not torch.equal(run(0, 5), run(0, 6))


def test_off_changes_nothing() -> None:
    batch = make_batch()
    assert not Mixer(K)
    assert Mixer(K)(batch, torch.Generator()) is batch


def test_negative_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Mixer(K, mixup=-1.0)


def test_label_smoothing_is_the_released_formula() -> None:
    logits_BK, labels_B = torch.randn(B, K), torch.tensor([0, 2, 4, 6])
    log_p = logits_BK.log_softmax(-1)
    expected = (0.9 * -log_p[torch.arange(B), labels_B] + 0.1 * -log_p.mean(-1)).mean()
    torch.testing.assert_close(classification_loss(logits_BK, labels_B, smoothing=0.1), expected)


def test_soft_labels_of_one_class_equal_hard_labels() -> None:
    logits_BK, labels_B = torch.randn(B, K), torch.tensor([0, 2, 4, 6])
    soft_BK = torch.nn.functional.one_hot(labels_B, K).float()
    torch.testing.assert_close(
        classification_loss(logits_BK, labels_B, labels_BK=soft_BK, smoothing=0.1),
        classification_loss(logits_BK, labels_B, smoothing=0.1),
    )


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="smoothing"):
        classification_loss(torch.zeros(2, K), torch.zeros(2).long(), smoothing=smoothing)
