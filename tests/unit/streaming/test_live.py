"""A stream of frames says what each window says on its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from side4video.errors import CheckpointError, InputError
from side4video.streaming.live import StreamingClassifier
from side4video.streaming.scorers import ClassScorer
from unit.streaming.conftest import alone

MakeScorer = Callable[..., ClassScorer]


def frames(count: int = 13) -> Tensor:
    """uint8 frames TCHW."""
    return torch.randint(0, 256, (count, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def test_each_push_scores_the_windows_that_it_completes(make_scorer: MakeScorer) -> None:
    first, second = make_scorer(), make_scorer(seed=6, num_frames=5, num_classes=4)
    stream, frames_TCHW = StreamingClassifier([first, second], stride=2, top_k=9), frames()
    found = [stream.push(frame_CHW) for frame_CHW in frames_TCHW]
    ends = {"run 5": [7, 9, 11], "run 6": [4, 6, 8, 10, 12]}
    for number, predictions in enumerate(found):
        assert [p.model for p in predictions] == [name for name in ("run 6", "run 5") if number in ends[name]]
        for prediction in predictions:
            scorer = first if prediction.model == "run 5" else second
            assert prediction.last_frame == number
            assert prediction.first_frame == number - scorer.num_frames + 1
            expected_K = alone(scorer, frames_TCHW[prediction.first_frame : number + 1])
            scores = dict(prediction.top)
            assert list(scores.values()) == sorted(scores.values(), reverse=True)
            assert [scores[label] for label in scorer.labels] == pytest.approx(expected_K.tolist(), abs=1e-5)


def test_a_bare_classifier_and_every_form_of_a_frame(make_scorer: MakeScorer) -> None:
    scorer, frames_TCHW = make_scorer(num_frames=3), frames(3)
    stream = StreamingClassifier(scorer.model, num_frames=3, top_k=2)
    assert stream.push(frames_TCHW[0]) == []
    assert stream.push(frames_TCHW[1].permute(1, 2, 0)) == []
    (prediction,) = stream.push(frames_TCHW[2].permute(1, 2, 0).numpy())
    assert len(prediction.top) == 2
    with torch.no_grad():
        pixels = stream._passes[0].transform(frames_TCHW).unsqueeze(0)
        expected_K = scorer.model(pixels)[0].softmax(-1)
    label, score = prediction.top[0]
    assert label == scorer.labels[int(expected_K.argmax())]
    assert score == pytest.approx(float(expected_K.max()), abs=1e-5)


def test_no_window_holds_frames_from_before_a_reset(make_scorer: MakeScorer) -> None:
    stream, frames_TCHW = StreamingClassifier([make_scorer(num_frames=4)]), frames(8)
    for frame_CHW in frames_TCHW[:3]:
        assert stream.push(frame_CHW) == []
    stream.reset()
    found = [stream.push(frame_CHW) for frame_CHW in frames_TCHW[3:]]
    assert [len(predictions) for predictions in found] == [0, 0, 0, 1, 1]
    assert found[3][0].first_frame == 0


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((20, 30, 3), np.float32), "a frame must be uint8 RGB"),
        (np.zeros((20, 30, 4), np.uint8), r"got torch.uint8 of shape \(20, 30, 4\)"),
        (torch.zeros(20, 30, dtype=torch.uint8), r"of shape \(20, 30\)"),
        (torch.zeros(3, 20, 30), "got torch.float32"),
        (torch.zeros(3, 0, 30, dtype=torch.uint8), r"of shape \(3, 0, 30\)"),
    ],
)
def test_what_is_no_frame(make_scorer: MakeScorer, frame: np.ndarray | Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamingClassifier([make_scorer()]).push(frame)


def test_what_a_stream_refuses(make_scorer: MakeScorer) -> None:
    scorer = make_scorer(num_frames=2)
    with pytest.raises(InputError, match="num_frames must be at least 1; got 0"):
        StreamingClassifier(scorer.model, num_frames=0)
    with pytest.raises(InputError, match="stride and top_k must be at least 1; got 0 and 5"):
        StreamingClassifier([scorer], stride=0)
    with pytest.raises(InputError, match="needs a model; got none"):
        StreamingClassifier([])
    with pytest.raises(InputError, match="num_frames is for a bare classifier"):
        StreamingClassifier([scorer], num_frames=4)
    with torch.no_grad():
        scorer.model.head.bias[1] = float("nan")
    stream = StreamingClassifier([scorer])
    stream.push(frames(1)[0])
    with pytest.raises(CheckpointError, match="run 5: its scores are no numbers"):
        stream.push(frames(1)[0])
