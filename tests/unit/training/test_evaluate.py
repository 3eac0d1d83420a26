"""Scores by record: views averaged after softmax, broken videos listed and left out of the numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import pytest
import torch

from side4video.errors import DataError, TrainingError
from side4video.training.evaluate import EvaluationStopped, Scorer, evaluate


def test_scores_equal_the_slow_way(small: ModuleType) -> None:
    model = small.small_model()
    loader = small.SmallLoader(7, 2, shuffle=False, views=3, broken=(1, 4))
    model.train()
    result = evaluate(model, loader)
    assert model.training
    model.eval()
    assert result.indices_V.tolist() == [0, 2, 3, 5, 6]
    assert result.labels_V.tolist() == [0, 2, 0, 2, 0]
    assert [(clip.index, clip.path) for clip in result.broken] == [(1, "video1.mp4"), (4, "video4.mp4")]
    losses = []
    for index, scores_K in zip(result.indices_V.tolist(), result.scores_VK, strict=True):
        with torch.no_grad():
            logits = torch.cat([model(small.small_clip(index, view)[None]) for view in range(3)])
        expected_K = logits.double().softmax(-1).mean(0)
        # one clip at a time against three in a batch: float32 rounding
        assert torch.allclose(scores_K, expected_K, atol=1e-5)
        losses.append(-float(scores_K[index % 3].log()))
    assert result.loss == pytest.approx(sum(losses) / 5)
    assert result.report.num_videos == 5
    assert result.as_dict().keys() == {"top1", "top5", "mean_class", "num_videos", "broken"}
    assert result.as_dict()["broken"] == 2


def test_nothing_changes_by_being_evaluated(small: ModuleType) -> None:
    model = small.small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted: list[int] = []
    evaluate(model, small.SmallLoader(5, 2, shuffle=False), on_batch=counted.append)
    assert counted == [2, 2, 1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class OneOfTwo:
    """The runtime of process 0; process 1 said `other`."""

    rank, world_size = 0, 2

    def __init__(self, other: str | None) -> None:
        self.other = other

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather_json(self, value: str | None) -> list[str | None]:
        return [value, self.other]


@pytest.mark.parametrize(("nan_here", "other"), [(True, None), (False, "logits must be finite"), (True, "late")])
def test_nan_in_one_process_is_an_error_in_all(small: ModuleType, nan_here: bool, other: str | None) -> None:
    scorer = Scorer(small.small_model().eval(), OneOfTwo(other))  # type: ignore[arg-type]
    for batch in small.SmallLoader(5, 2, shuffle=False, nan_at=1 if nan_here else None):
        scorer.add(batch)  # goes on, so that the other process is not left waiting
    process = 0 if nan_here else 1
    with pytest.raises(TrainingError, match=rf"evaluation stopped: logits must be finite.* \(process {process} of 2\)"):
        scorer.result()


def test_errors(small: ModuleType) -> None:
    model = small.small_model()
    with pytest.raises(DataError, match=r"no video could be evaluated: 4 are broken; for example video0.mp4: no video"):
        evaluate(model, small.SmallLoader(4, 2, shuffle=False, broken=(0, 1, 2, 3)))
    with pytest.raises(DataError, match=r"no video could be evaluated: 0 are broken"):
        evaluate(model, [])
    with pytest.raises(TrainingError, match=r"logits must be finite; got NaN or infinity for records \[2, 3\]"):
        evaluate(model, small.SmallLoader(5, 2, shuffle=False, nan_at=1))
    with pytest.raises(EvaluationStopped):
        evaluate(model, small.SmallLoader(5, 2, shuffle=False), should_stop=lambda: True)
