"""Saliency: it sums to what it explains, finds what was planted, and leaves the frozen blocks without gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.explain import explain_clip, explain_text
from side4video.explain.attribution import log_odds
from side4video.side.network import MemoryMode
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from unit.backbones.toy import ToyTrunk

T, ROWS, COLUMNS, K = 5, 3, 7, 4
SPEC = SideSpec(width=10, num_heads=2, taps=(1, 3))
NAMES = ("jump", "run", "sit", "wave")


class SeeingTrunk(ToyTrunk):
    """Its class token sees the patches of its frame, so that it says something of the moment."""

    def run_block(self, index: int, tokens_IAD: Tensor, context: Tensor) -> Tensor:
        tokens_IAD = super().run_block(index, tokens_IAD, context)
        seen_I1D = tokens_IAD[:, self.num_prefix :].mean(1, keepdim=True)
        return torch.cat([tokens_IAD[:, : self.num_prefix] + 3 * seen_I1D, tokens_IAD[:, self.num_prefix :]], dim=1)


def classifier(
    spec: SideSpec = SPEC, *, has_class_token: bool = True, memory: MemoryMode = "fast", num_classes: int = K
) -> VideoClassifier:
    torch.manual_seed(0)
    backbone = FrozenBackbone(SeeingTrunk(has_class_token=has_class_token), name="toy")
    names = NAMES[:num_classes]
    generator = torch.Generator().manual_seed(1)
    model = VideoClassifier(
        backbone, num_classes, side=spec, class_names=names, memory=memory, generator=generator
    ).eval()
    with torch.no_grad():
        # a new side block is the identity, and adds nothing that could be explained
        for parameter in model.side.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def clip(seed: int = 2) -> Tensor:
    return torch.randn(1, T, 3, 12, 14, generator=torch.Generator().manual_seed(seed))


SPECS = {
    "clip": SPEC,
    "no stem": replace(SPEC, stem=False),
    "class token": replace(SPEC, representation="class"),
    "extra token": replace(SPEC, representation="extra"),
    "no shift, attention": replace(SPEC, shift=False, temporal="attention"),
}


@pytest.mark.parametrize(("name", "has_class_token"), [*((name, True) for name in SPECS), ("clip", False)])
def test_contributions_sum_to_what_the_clip_adds(name: str, has_class_token: bool) -> None:
    model = classifier(SPECS[name], has_class_token=has_class_token)
    found = explain_clip(model, clip(), "sit", steps=32)
    with torch.no_grad():
        logits_K = model(clip())[0]
    assert found.evidence == pytest.approx(float(logits_K[2] - logits_K[[0, 1, 3]].logsumexp(0)), abs=1e-5)
    assert found.score == pytest.approx(float(logits_K.softmax(0)[2]), abs=1e-6)
    difference = found.evidence - found.baseline
    assert abs(difference) > 0.01
    assert float(found.contributions_LT.sum()) == pytest.approx(difference, rel=5e-3)
    assert found.missing == pytest.approx(difference - float(found.contributions_LT.sum()), abs=1e-5)
    parts = ["block 1", "block 3"] if name == "no stem" else ["pixels", "block 1", "block 3"]
    assert list(found.tap_names) == parts
    assert found.contributions_LT.shape == (len(parts), T)


def test_shares_are_what_speaks_for_the_class() -> None:
    found = explain_clip(classifier(), clip(), 0)
    assert found.maps_TYX.shape == (T, ROWS, COLUMNS)
    assert found.frames_T.shape == (T,)
    assert found.taps_L.shape == (3,)
    for shares in (found.maps_TYX, found.frames_T, found.taps_L):
        assert shares.dtype == torch.float32
        assert float(shares.min()) >= 0
        assert float(shares.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found.frames_T, found.maps_TYX.sum((1, 2)))


@pytest.mark.parametrize("name", ["clip", "no stem"])
@pytest.mark.parametrize(("frame", "row", "column"), [(0, 0, 6), (2, 1, 3), (4, 2, 0)])
def test_what_was_planted_is_found(frame: int, row: int, column: int, name: str) -> None:
    model = classifier(SPECS[name], has_class_token=False)
    planted = torch.full((1, T, 3, 12, 14), -0.4)
    planted[:, frame, :, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2] = 1.0
    # the place speaks for some classes and against others; against, it is not on the map
    maps = [explain_clip(model, planted, name, steps=4).maps_TYX for name in NAMES]
    found_TYX = max(maps, key=lambda maps_TYX: float(maps_TYX[frame, row, column]))
    assert float(found_TYX[frame, row, column]) > 0.6
    found_TYX[frame, row, column] = 0
    assert float(found_TYX.max()) < 0.1


def test_the_likeliest_class_is_the_default_and_names_are_numbers() -> None:
    model = classifier()
    with torch.no_grad():
        best = int(model(clip())[0].argmax())
    found = explain_clip(model, clip())
    assert (found.target, found.label) == (best, NAMES[best])
    by_name, by_number = explain_clip(model, clip(), "run"), explain_clip(model, clip(), 1)
    assert by_name.target == by_number.target == 1
    torch.testing.assert_close(by_name.maps_TYX, by_number.maps_TYX, rtol=0, atol=0)


@pytest.mark.parametrize("memory", ["balanced", "lean", "smallest"])
def test_memory_modes_give_the_same(memory: MemoryMode) -> None:
    plain, saving = explain_clip(classifier(), clip(), 1), explain_clip(classifier(memory=memory), clip(), 1)
    torch.testing.assert_close(saving.contributions_LT, plain.contributions_LT, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(saving.maps_TYX, plain.maps_TYX, rtol=1e-4, atol=1e-6)


def test_frozen_blocks_run_once_and_without_gradients() -> None:
    model = classifier()
    trunk = model.backbone.trunk
    assert isinstance(trunk, ToyTrunk)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.enable_grad():
        explain_clip(model, clip())
    assert trunk.grad_modes == {False}
    assert trunk.calls == [(index, T) for index in range(4)]
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(mode: type[torch.no_grad]) -> None:
    expected = explain_clip(classifier(), clip(), 2)
    model = classifier()
    with mode():
        found = explain_clip(model, clip(), 2)
    torch.testing.assert_close(found.maps_TYX, expected.maps_TYX, rtol=0, atol=0)


def test_similarity_to_a_caption_is_explained() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("tiny-clip", pretrained=False, precision="fp32")
    text = create_text_tower("tiny-clip", pretrained=False)
    model = VideoTextModel(backbone, text, side=SideSpec(width=16, num_heads=2, taps=(1, 5))).eval()
    with torch.no_grad():
        model.side_proj.normal_(std=0.3)
    pixels = torch.randn(1, 3, 3, 64, 64)
    ids_MQ = torch.tensor([[5, 9, 11, 2, 0, 0]])
    mask_MQ = ids_MQ > 0
    found = explain_text(model, pixels, ids_MQ, mask_MQ, "a dog", steps=24)
    with torch.no_grad():
        frames_VTE, tokens_MQE = model.encode_video(pixels), model.encode_text(ids_MQ)
        expected = model.similarity(tokens_MQE, mask_MQ, frames_VTE, torch.ones(1, 3, dtype=torch.bool))
    assert found.score == pytest.approx(float(expected), abs=1e-5)
    assert (found.target, found.label) == (None, "a dog")
    assert found.maps_TYX.shape == (3, 8, 8)
    difference = found.evidence - found.baseline
    assert abs(difference) > 1e-4
    assert abs(found.missing) < 0.05 * abs(difference)
    with pytest.raises(ValueError, match="one caption is explained at a time; got 2"):
        explain_text(model, pixels, ids_MQ.expand(2, -1), mask_MQ.expand(2, -1), "two")


def test_bad_input_is_named() -> None:
    model = classifier()
    with pytest.raises(ValueError, match=r"one clip is explained at a time.*got \(2, 5, 3, 12, 14\)"):
        explain_clip(model, clip().expand(2, -1, -1, -1, -1))
    with pytest.raises(ValueError, match="'jumb' is no class of this model; did you mean 'jump'"):
        explain_clip(model, clip(), "jumb")
    with pytest.raises(ValueError, match="a class number from 0 to 3; got 4"):
        explain_clip(model, clip(), 4)
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        explain_clip(model, clip(), steps=0)
    with pytest.raises(ValueError, match="in eval mode"):
        explain_clip(model.train(), clip())
    with pytest.raises(ValueError, match="one class"):
        explain_clip(classifier(num_classes=1), clip())


def test_log_odds_do_not_change_with_all_logits() -> None:
    scores_K = torch.tensor([0.3, -1.0, 2.0])
    probability = float(scores_K.softmax(0)[1])
    expected = torch.tensor(probability / (1 - probability)).log()
    torch.testing.assert_close(log_odds(scores_K, 1), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_odds(scores_K + 7, 1), log_odds(scores_K, 1), rtol=0, atol=2e-6)
