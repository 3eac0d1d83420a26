"""Classes from their names alone: a text tower's embeddings as a classifier of frames, or as the start of a head.

Zero-shot, nothing trains: a clip is the mean of its frames' normalised embeddings, and its score for a class is CLIP's
scaled cosine with the sentences that name the class. It is where an image-text model stands before the side network.

The side network's features live in another space, so a head that starts from text takes over how the classes lie to
each other, not where: the centred embeddings are turned into the side width by a random rotation, which keeps every
angle between classes (where the width has room for them), and scaled to the size that a new linear layer has.

Source: CLIP, arXiv:2103.00020, prompt ensembles; text as the start of a video classifier: Text4Vis, arXiv:2207.01297.
We differ from the latter in letting the head train on.

Shapes: M, sentences; E, joint width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.caption_tokens import CaptionTokens
from side4video.backbones.text import TextEncoder
from side4video.tasks.similarity import sentence_vectors

_SENTENCES_PER_PASS = 64


class ZeroShotClassifier(nn.Module):
    """Clips to class scores without training; `head` holds the class vectors times the model's own scale.

    Raises:
        ValueError: class names, class vectors and the backbone's embeddings that do not fit.
    """

    def __init__(
        self, backbone: FrozenBackbone, vectors_KE: Tensor, class_names: Sequence[str], *, logit_scale: float
    ) -> None:
        super().__init__()
        if vectors_KE.dim() != 2 or len(vectors_KE) != len(class_names):
            raise ValueError(f"{len(class_names)} classes need vectors_KE; got shape {tuple(vectors_KE.shape)}")
        self.backbone = backbone
        self.class_names = tuple(class_names)
        self.head = nn.Linear(vectors_KE.shape[1], len(class_names), bias=False)
        with torch.no_grad():
            self.head.weight.copy_(F.normalize(vectors_KE.float(), dim=-1) * torch.tensor(logit_scale).exp())
        self.head.requires_grad_(requires_grad=False)
        self.eval()

    @torch.no_grad()
    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """`logits_BK` of normalised clips.

        Raises:
            BackboneError: pixels that do not fit, or a backbone without an image embedding.
        """
        frames_BTE = F.normalize(self.backbone.features(clip_BTCHW).float(), dim=-1)
        return self.head(F.normalize(frames_BTE.mean(1), dim=-1))

    def take_part(self) -> None:
        """For a process without clips while others have some: see `FrozenBackbone.take_part`."""
        self.backbone.take_part([self.backbone.depth - 1])


@torch.no_grad()
def class_vectors(
    text: TextEncoder,
    tokenize: Callable[[Sequence[str]], CaptionTokens],
    class_names: Sequence[str],
    templates: Sequence[str],
) -> Tensor:
    """`vectors_KE`, normalised: each class the mean of its sentences' normalised embeddings.

    Raises:
        DataError: a sentence without a word.
        ValueError: a template without a place for the name.
    """
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"each template must have {{}} where the class name goes; got {list(templates)}")
    sentences = [template.replace("{}", in_words(name)) for name in class_names for template in templates]
    parts: list[Tensor] = []
    for first in range(0, len(sentences), _SENTENCES_PER_PASS):
        tokens = tokenize(sentences[first : first + _SENTENCES_PER_PASS])
        found_ME = sentence_vectors(text.forward(tokens.ids_MQ), tokens.mask_MQ)
        parts.append(F.normalize(found_ME.float(), dim=-1))
    by_class = torch.cat(parts).unflatten(0, (len(class_names), len(templates)))
    return F.normalize(by_class.mean(1), dim=-1)


def in_words(name: str) -> str:
    """A class name as part of a sentence: names of folders (`slide_left`, `ApplyLipstick`) become words.

    >>> in_words("ApplyEyeMakeup"), in_words("slide-left"), in_words("Pushing something from left to right")
    ('apply eye makeup', 'slide left', 'Pushing something from left to right')
    """
    if " " in name.strip():
        return name.strip()
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_\-]+", " ", spaced).split()).lower() or name


def head_from_text(vectors_KE: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """`weight_KS` of a linear head, S = `width`: angles between classes as between their names, of the usual size."""
    centred_KE = (vectors_KE - vectors_KE.mean(0)).double()
    left_KR, sizes_R, _ = torch.linalg.svd(centred_KE, full_matrices=False)
    rank = min(width, len(sizes_R))
    # rows of a random rotation: orthonormal, so that products between classes stay
    rotation_SR, _ = torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))
    weight_KS = (left_KR * sizes_R)[:, :rank] @ rotation_SR.T
    usual = (3 * width) ** -0.5  # the spread of torch's linear layers
    return (weight_KS * (usual / weight_KS.std().clamp_min(1e-12))).float()
