"""Classes from their names: pictures are told apart by what they are called, and heads start like the names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from side4video.backbones import FrozenBackbone, create_backbone
from side4video.backbones.create_text import create_text_tower, create_tokenizer
from side4video.data.drawing import COLOURS, Scene, random_background, random_figure, render
from side4video.tasks.zero_shot import ZeroShotClassifier, class_vectors, head_from_text, in_words

NAMES = ("red", "green", "blue", "yellow")
TEMPLATES = ("a {} shape", "a large {} circle in the middle")


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return create_backbone("tiny-clip", precision="fp32")


def vectors(names: tuple[str, ...], templates: tuple[str, ...] = ("a {}",)) -> torch.Tensor:
    text = create_text_tower("tiny-clip").eval()
    return class_vectors(text, create_tokenizer("tiny-clip", max_words=99), names, templates)


def stills(colours: tuple[str, ...], *, copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of two frames that stand still, and their labels."""
    generator = np.random.default_rng(11)
    clips, labels = [], []
    for label, colour in enumerate(colours):
        for _ in range(copies):
            background = random_background(generator)
            figure = random_figure(generator, background, place="in the middle")
            figure = replace(figure, colour=colour, rgb=COLOURS[colour])
            picture_HWC = render(Scene((figure,), background), 64, 64, generator)
            clips.append(torch.from_numpy(picture_HWC.copy()).permute(2, 0, 1).expand(2, -1, -1, -1))
            labels.append(label)
    clip_BTCHW = (torch.stack(clips).float() / 255 - 0.5) / 0.25
    return clip_BTCHW, torch.tensor(labels)


def test_stills_are_told_apart_by_name_alone(backbone: FrozenBackbone) -> None:
    clip_BTCHW, labels_B = stills(NAMES, copies=12)
    shares = []
    for named in (NAMES, NAMES[1:] + NAMES[:1]):
        model = ZeroShotClassifier(backbone, vectors(named, TEMPLATES), NAMES, logit_scale=4.6)
        shares.append(float((model(clip_BTCHW).argmax(1) == labels_B).float().mean()))
    assert shares[0] > 0.8, "a guess is 0.25"
    assert shares[1] < 0.1, "names in another order are other classes"


def test_logits_are_scaled_cosines_of_frames_and_sentences(backbone: FrozenBackbone) -> None:
    vectors_KE = vectors(("circle", "star", "slide_left"), ("a {}", "a small {} at the left"))
    text, tokenizer = create_text_tower("tiny-clip").eval(), create_tokenizer("tiny-clip")
    with torch.no_grad():
        tokens = tokenizer(["a slide left", "a small slide left at the left"])
        sentences = text(tokens.ids_MQ)[torch.arange(2), tokens.mask_MQ.sum(1) - 1]
    expected = F.normalize(F.normalize(sentences, dim=1).mean(0), dim=0)
    torch.testing.assert_close(vectors_KE[2], expected)
    clip_BTCHW, _ = stills(("red",), copies=1)
    clip_BTCHW = torch.cat([clip_BTCHW, clip_BTCHW.flip(-1) * 0.5], dim=1)
    frames_TE = F.normalize(backbone.features(clip_BTCHW)[0], dim=1)
    cosines_K = F.normalize(frames_TE.mean(0), dim=0) @ vectors_KE.T
    model = ZeroShotClassifier(backbone, vectors_KE, ("circle", "star", "slide_left"), logit_scale=2.0)
    torch.testing.assert_close(model(clip_BTCHW)[0], cosines_K * np.exp(2.0))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_refuses_names_and_vectors_that_do_not_fit(backbone: FrozenBackbone) -> None:
    with pytest.raises(ValueError, match="2 classes need vectors_KE"):
        ZeroShotClassifier(backbone, torch.ones(3, 128), ("a", "b"), logit_scale=1.0)
    with pytest.raises(ValueError, match="where the class name goes"):
        vectors(("circle",), ("a video",))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("slide-left", "slide left"),
        ("ApplyLipstick", "apply lipstick"),
        ("Pushing something from left to right", "Pushing something from left to right"),
        ("42", "42"),
        ("_", "_"),
    ],
)
def test_folder_names_become_words(name: str, words: str) -> None:
    assert in_words(name) == words


@pytest.mark.parametrize("width", [5, 24, 200])
def test_a_head_keeps_the_angles_between_names(width: int) -> None:
    vectors_KE = vectors(("red circle", "red square", "blue star", "moves left", "moves right", "grows"))
    weight_KS = head_from_text(vectors_KE, width, torch.Generator().manual_seed(0))
    assert weight_KS.shape == (6, width)
    assert float(weight_KS.std()) == pytest.approx((3 * width) ** -0.5, rel=1e-5)
    centred = vectors_KE - vectors_KE.mean(0)
    expected, found = centred @ centred.T, weight_KS @ weight_KS.T
    # six centred classes span five dimensions
    torch.testing.assert_close(found / found[0, 0], expected / expected[0, 0], rtol=1e-3, atol=1e-4)
    other = head_from_text(vectors_KE, width, torch.Generator().manual_seed(1))
    assert not torch.allclose(weight_KS, other)
