"""Recognition metrics against a slow count, with views, merging and bad scores."""

from __future__ import annotations

import pytest
import torch

from side4video.tasks.metrics import RecognitionMetrics

K, V, VIEWS = 7, 23, 3


def make_views() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(V * VIEWS, K, generator=generator)
    indices = torch.arange(V).repeat_interleave(VIEWS)
    views = torch.arange(VIEWS).repeat(V)
    labels = torch.randint(0, K - 1, (V,), generator=generator).repeat_interleave(VIEWS)  # the last class never occurs
    return logits, labels, indices, views


def test_equals_a_slow_count() -> None:
    logits, labels, indices, views = make_views()
    metrics = RecognitionMetrics(K)
    metrics.update(logits, labels, indices, views)
    report = metrics.compute()
    scores = logits.double().softmax(-1).view(V, VIEWS, K).mean(1)
    label_V = labels.view(V, VIEWS)[:, 0]
    order = scores.argsort(-1, descending=True)
    hit1 = [int(order[v, 0]) == int(label_V[v]) for v in range(V)]
    hit5 = [int(label_V[v]) in order[v, :5].tolist() for v in range(V)]
    classes = [[hit1[v] for v in range(V) if label_V[v] == k] for k in range(K)]
    assert report.top1 == sum(hit1) / V
    assert report.top5 == sum(hit5) / V
    assert report.mean_class == pytest.approx(
        sum(sum(c) / len(c) for c in classes if c) / sum(bool(c) for c in classes), abs=1e-12
    )
    assert report.num_videos == V
    assert report.confusion_KK.sum() == V
    assert report.confusion_KK.diagonal().sum() == sum(hit1)
    assert report.videos_K.tolist() == [len(c) for c in classes]


def test_order_batches_and_processes_do_not_matter() -> None:
    logits, labels, indices, views = make_views()
    whole = RecognitionMetrics(K)
    whole.update(logits, labels, indices, views)
    permutation = torch.randperm(V * VIEWS, generator=torch.Generator().manual_seed(1))
    parts = [RecognitionMetrics(K) for _ in range(2)]
    for part, chosen in zip(parts, (permutation[:30], permutation[20:]), strict=True):  # ten views come twice
        for rows in chosen.split(7):
            part.update(logits[rows], labels[rows], indices[rows], views[rows])
    merged = RecognitionMetrics.from_state(parts[0].state())
    merged.merge(RecognitionMetrics.from_state(parts[1].state()))
    assert merged.compute().as_dict() == whole.compute().as_dict()
    assert all(torch.equal(merged.scores()[index], score) for index, score in whole.scores().items())


def test_a_tie_counts_against_us() -> None:
    metrics = RecognitionMetrics(K)
    metrics.update(torch.zeros(2, K), torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert metrics.compute().top1 == 0
    assert metrics.compute().top5 == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_scores_are_an_error(bad: float) -> None:
    logits = torch.zeros(3, K)
    logits[1, 2] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity for records \[11\]"):
        RecognitionMetrics(K).update(logits, torch.zeros(3).long(), torch.tensor([10, 11, 12]), torch.zeros(3).long())


def test_no_video_is_an_error() -> None:
    with pytest.raises(ValueError, match="no video has been scored"):
        RecognitionMetrics(K).compute()


def test_a_record_has_one_label() -> None:
    metrics = RecognitionMetrics(K)
    metrics.update(torch.zeros(1, K), torch.tensor([3]), torch.tensor([5]), torch.tensor([0]))
    with pytest.raises(ValueError, match="record 5 came with two labels"):
        metrics.update(torch.zeros(1, K), torch.tensor([4]), torch.tensor([5]), torch.tensor([1]))


def test_labels_outside_the_classes_are_an_error() -> None:
    metrics = RecognitionMetrics(K)
    metrics.update(torch.zeros(1, K), torch.tensor([K]), torch.tensor([5]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"0\.\.6"):
        metrics.compute()
