"""Clips of several models over one pass: each says what it says alone, and no frame passes twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.side import kernels
from side4video.side.spec import SideSpec
from side4video.streaming.cost import clip_cost
from side4video.streaming.passes import make_passes
from side4video.streaming.scorers import ClassScorer, SentenceScorer
from side4video.streaming.together import ClipJob, score_together
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.windows import WindowPlan
from unit.backbones.toy import ToyTrunk
from unit.streaming.conftest import TO_PIXELS

MakeScorer = Callable[..., ClassScorer]


@pytest.mark.parametrize("frame_slice", [None, 4])
def test_each_says_what_it_says_alone(make_scorer: MakeScorer, frame_slice: int | None) -> None:
    first, second = make_scorer(), make_scorer(seed=6, num_frames=3, num_classes=4, taps=(1, 2, 4))
    trunk = first.backbone.trunk
    assert isinstance(trunk, ToyTrunk)
    frames_FCHW = torch.randn(11, 3, 12, 14, generator=torch.Generator().manual_seed(1))
    # more clips than run at once; frames that repeat, overlap and go back
    generator = torch.Generator().manual_seed(2)
    places = [torch.randint(0, 11, (17, 8), generator=generator), torch.randint(0, 11, (2, 3), generator=generator)]
    jobs = [ClipJob(scorer, own) for scorer, own in zip((first, second), places, strict=True)]
    found = score_together(jobs, frames_FCHW, frame_slice=frame_slice)
    assert sum(trunk.embedded) == 11
    for scorer, own, scores_VK in zip((first, second), places, found, strict=True):
        assert len(scores_VK) == len(own)
        with torch.no_grad():
            expected_VK = scorer.model(frames_FCHW[own]).softmax(-1)
        torch.testing.assert_close(scores_VK, expected_VK, atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [0, 0, 1, 2, 3, 4, 5, 6]])
def test_one_clip_of_as_many_frames(make_scorer: MakeScorer, order: list[int]) -> None:
    scorer, places_VT = make_scorer(), torch.tensor([order])
    frames_FCHW = torch.randn(8, 3, 12, 14, generator=torch.Generator().manual_seed(1))
    (found_VK,) = score_together([ClipJob(scorer, places_VT)], frames_FCHW)
    with torch.no_grad():
        expected_VK = scorer.model(frames_FCHW[places_VT]).softmax(-1)
    torch.testing.assert_close(found_VK, expected_VK, atol=1e-5, rtol=0)


@torch.no_grad()
def test_inference_takes_the_fused_kernels(make_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []
    plain = kernels._fused_linear
    monkeypatch.setattr(kernels, "_fused_linear", lambda *args, **more: used.append(True) or plain(*args, **more))
    monkeypatch.setattr(kernels, "has_kernels", lambda x, _: not x.is_meta and torch.backends.mkldnn.is_available())
    scorer, frames_FCHW = make_scorer(), torch.randn(8, 3, 12, 14)
    scorer.model(frames_FCHW[None])
    assert not used, "a model by itself may be run again with gradients"
    score_together([ClipJob(scorer, torch.arange(8)[None])], frames_FCHW)
    alone = len(used)
    (one,) = make_passes([scorer], lambda size: WindowPlan(size, 1))
    (scored,) = one.push(frames_FCHW)
    assert len(scored.starts) == 1
    assert (alone > 0, len(used)) == (torch.backends.mkldnn.is_available(), 2 * alone)


@torch.no_grad()
def test_classifiers_and_retrieval_in_one_pass() -> None:
    backbone = create_backbone("tiny-clip", pretrained=False, precision="fp32")
    generator = torch.Generator().manual_seed(1)
    text = VideoTextModel(
        backbone, create_text_tower("tiny-clip", pretrained=False), side=SideSpec(width=24), generator=generator
    ).eval()
    text.side_proj.normal_(std=0.2, generator=generator)
    # its side network ends before the last block, which the retrieval model needs
    spec = SideSpec(width=16, num_heads=2, taps=(0, 3), stem=False)
    classes = VideoClassifier(backbone, 5, side=spec, generator=generator).eval()
    tokens_KQE, mask_KQ = torch.randn(3, 7, 128, generator=generator), torch.ones(3, 7, dtype=torch.bool)
    scorers = [
        SentenceScorer("text", text, ("a", "b", "c"), tokens_KQE, mask_KQ, 4, TO_PIXELS),
        ClassScorer("classes", classes, 6, TO_PIXELS),
    ]
    frames_FCHW = torch.randn(9, 3, 64, 64, generator=generator)
    places = [torch.tensor([[0, 2, 4, 6], [1, 3, 5, 8]]), torch.tensor([[0, 1, 2, 3, 4, 5]])]
    jobs = [ClipJob(scorer, own) for scorer, own in zip(scorers, places, strict=True)]
    sentences_VK, classes_VK = score_together(jobs, frames_FCHW)
    frames_VTE = text.encode_video(frames_FCHW[places[0]])
    expected_KV = text.similarity(tokens_KQE, mask_KQ, frames_VTE, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(sentences_VK, expected_KV.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(classes_VK, classes(frames_FCHW[places[1]]).softmax(-1), atol=1e-5, rtol=0)


def test_cost_grows_with_frames_and_taps(make_scorer: MakeScorer) -> None:
    small, long, deep = make_scorer(num_frames=4), make_scorer(num_frames=8), make_scorer(num_frames=8, taps=(0, 1, 4))
    costs = [clip_cost(scorer) for scorer in (small, long, deep)]
    assert costs[1].frozen_flops == 2 * costs[0].frozen_flops
    assert costs[1].side_flops > 1.9 * costs[0].side_flops
    assert costs[2].frozen_flops > costs[1].frozen_flops
    assert costs[2].side_flops > costs[1].side_flops
