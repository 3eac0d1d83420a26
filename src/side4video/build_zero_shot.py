"""Settings to classifiers that class names make: zero-shot models, and heads that start from text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.create_text import create_text_tower, create_tokenizer
from side4video.config.schema import RunSettings
from side4video.errors import BackboneError
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.zero_shot import ZeroShotClassifier, class_vectors, head_from_text

# more than any text tower takes: each cuts captions at its own context
_LONGEST = 1 << 16


def build_zero_shot(settings: RunSettings, class_names: Sequence[str], backbone: FrozenBackbone) -> ZeroShotClassifier:
    """The classifier that the backbone's own text tower makes of the class names.

    Raises:
        BackboneError: a backbone without a text tower; the message says what works.
        CheckpointError: a weights file that cannot be read or does not fit.
        MissingExtraError: a tokenizer that needs a package that is not installed.
    """
    vectors_KE, logit_scale = _vectors(settings, class_names, backbone, wanted="zero-shot classification")
    return ZeroShotClassifier(backbone, vectors_KE, class_names, logit_scale=logit_scale).to(backbone.device)


def start_head_from_text(settings: RunSettings, model: VideoClassifier) -> None:
    """Give the model's head the weights that `head.init=text` asks for, drawn from the run's seed.

    Raises:
        BackboneError, CheckpointError, MissingExtraError: as `build_zero_shot`.
    """
    assert model.class_names is not None
    vectors_KE, _ = _vectors(settings, model.class_names, model.backbone, wanted="head.init=text")
    generator = torch.Generator().manual_seed(settings.train.seed)
    with torch.no_grad():
        model.head.weight.copy_(head_from_text(vectors_KE, model.side.spec.width, generator))
        model.head.bias.zero_()


def _vectors(
    settings: RunSettings, class_names: Sequence[str], backbone: FrozenBackbone, *, wanted: str
) -> tuple[Tensor, float]:
    try:
        # random weights come from the run's seed, as the image tower's do
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.train.seed)
            text = create_text_tower(
                backbone.name, weights=settings.backbone.weights, pretrained=settings.backbone.pretrained
            )
        tokenizer = create_tokenizer(backbone.name, max_words=_LONGEST)
    except BackboneError as error:
        raise BackboneError(f"{wanted}: {error}") from error
    vectors_KE = class_vectors(text.eval(), tokenizer, class_names, settings.head.templates)
    return vectors_KE, text.logit_scale_init
