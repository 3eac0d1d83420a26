"""What the maps are good for, on a model that has learned something: the moving square is found, and taking away the
most salient places lowers the score more than taking away as many others.

Squares slide over a noisy ground in one of three directions; a small side network learns to tell them apart from stored
tokens of the frozen tiny-clip. The model sees other squares than the ones that are explained.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.backbones.create import create_backbone
from side4video.explain import explain_clip
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier

T, SIZE, PATCH, K = 4, 64, 8, 3
STEPS, PER_CLASS = 30, 7
SALIENT = 20
"""Patches that are taken away, of T x 64."""


def draw(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """`clip_BTCHW`, `labels_B`, and `square_BTYX`: the patches that the square touches."""
    generator = torch.Generator().manual_seed(seed)
    clips, squares = [], []
    labels_B = torch.arange(count * K) % K
    for label in labels_B.tolist():
        clip_TCHW = torch.randn(T, 3, SIZE, SIZE, generator=generator) * 0.15 - 1.0
        square_THW = torch.zeros(T, SIZE, SIZE)
        start = int(torch.randint(0, 12, (), generator=generator))
        across = int(torch.randint(4, 44, (), generator=generator))
        colour_C11 = torch.rand(3, 1, 1, generator=generator) + 0.8
        for t in range(T):
            along = start + 12 * t
            top, left = ((across, along), (across, SIZE - 16 - along), (along, across))[label]
            square_THW[t, top : top + 16, left : left + 16] = 1
            clip_TCHW[t, :, top : top + 16, left : left + 16] = colour_C11
        clips.append(clip_TCHW)
        squares.append(F.max_pool2d(square_THW, PATCH) > 0)
    return torch.stack(clips), labels_B, torch.stack(squares)


@pytest.fixture(scope="module")
def model() -> VideoClassifier:
    backbone = create_backbone("tiny-clip", precision="fp32")
    spec = SideSpec(width=24, num_heads=2, taps=(1, 3))
    model = VideoClassifier(backbone, K, side=spec, generator=torch.Generator().manual_seed(0))
    clip_BTCHW, labels_B, _ = draw(PER_CLASS, seed=0)
    with torch.no_grad():
        layers = list(backbone.stream(clip_BTCHW, spec.taps))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        F.cross_entropy(model.head(model.side(clip_BTCHW, layers).frames_BTS.mean(1)), labels_B).backward()
        optimiser.step()
    return model.eval()


def without(clip_BTCHW: Tensor, places_TYX: Tensor) -> Tensor:
    """The clip with the mean colour where the places are true."""
    mask_THW = places_TYX.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    return torch.where(mask_THW[None, :, None], clip_BTCHW.mean((1, 3, 4), keepdim=True), clip_BTCHW)


def test_the_moving_square_is_found_and_its_loss_lowers_the_score(model: VideoClassifier) -> None:
    clips, labels_B, squares = draw(4, seed=99)
    generator = torch.Generator().manual_seed(1)
    shares, drops, random_drops = [], [], []
    with torch.no_grad():
        before_B = model(clips).softmax(-1).gather(1, labels_B[:, None])[:, 0]
    assert float(before_B.mean()) > 0.7, "the model has not learned to tell the squares apart"
    for clip_TCHW, label, square_TYX, before in zip(clips, labels_B.tolist(), squares, before_B.tolist(), strict=True):
        maps_TYX = explain_clip(model, clip_TCHW[None], label, steps=6).maps_TYX
        shares.append(float(maps_TYX[square_TYX].sum()))
        orders = [maps_TYX.flatten(), *(torch.rand(maps_TYX.numel(), generator=generator) for _ in range(3))]
        places = [order >= order.topk(SALIENT).values[-1] for order in orders]
        changed = torch.cat([without(clip_TCHW[None], place.view(maps_TYX.shape)) for place in places])
        with torch.no_grad():
            first, *others = (before - model(changed).softmax(-1)[:, label]).tolist()
        drops.append(first)
        random_drops += others
    area = float(squares.float().mean())
    drop, random_drop = sum(drops) / len(drops), sum(random_drops) / len(random_drops)
    assert sum(shares) / len(shares) > 3 * area
    assert drop > 0.2
    assert drop > 3 * random_drop
