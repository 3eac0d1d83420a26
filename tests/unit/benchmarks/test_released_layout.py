"""The released layout is our model: outputs, gradients, batch-norm buffers, in float64, on both dialects."""

from __future__ import annotations

import copy

import pytest
import torch
from open_clip.transformer import VisionTransformer
from timm.models.eva import Eva
from torch import nn

from released_layout import ReleasedLayout, copy_weights, pairs
from side4video.backbones import create_backbone
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier

B, T, SIZE, PATCH, CLASSES = 2, 5, 24, 8, 7
SPECS = {
    "clip": SideSpec(width=16, num_heads=2, taps=(0, 2)),
    "eva": SideSpec(
        width=16, num_heads=2, taps=(1, 2), norm_order="post", projection_norm="output", final_norm=False, init="eva"
    ),
}


def make_tower(dialect: str) -> nn.Module:
    if dialect == "clip":
        return VisionTransformer(
            image_size=SIZE, patch_size=PATCH, width=32, layers=3, heads=4, mlp_ratio=2.0, output_dim=12
        )
    return Eva(img_size=SIZE, patch_size=PATCH, embed_dim=32, depth=3, num_heads=4, use_post_norm=True, num_classes=0)


def make_pair(dialect: str) -> tuple[ReleasedLayout, VideoClassifier]:
    backbone = create_backbone(make_tower(dialect), precision="fp32")
    ours = VideoClassifier(backbone, CLASSES, side=SPECS[dialect]).double().train()
    with torch.no_grad():
        for parameter in (*ours.side.parameters(), *ours.head.parameters()):
            parameter.normal_(std=0.3)
    released = ReleasedLayout(copy.deepcopy(backbone), CLASSES, SPECS[dialect]).double().train()
    copy_weights(released, ours)
    return released, ours


@pytest.mark.parametrize("attention", ["fused", "plain"])
@pytest.mark.parametrize("dialect", ["clip", "eva"])
def test_outputs_and_gradients_are_ours(dialect: str, attention: str) -> None:
    released, ours = make_pair(dialect)
    for block in released.blocks:
        block.attention.kind = attention
    clip_BTCHW = torch.randn(B, T, 3, SIZE, SIZE, dtype=torch.float64)
    logits_BK, our_logits_BK = released(clip_BTCHW), ours(clip_BTCHW)
    torch.testing.assert_close(logits_BK, our_logits_BK, rtol=1e-9, atol=1e-9)
    weights_BK = torch.randn_like(logits_BK)
    (logits_BK * weights_BK).sum().backward()
    (our_logits_BK * weights_BK).sum().backward()
    scale = max(float(p.grad.abs().max()) for p in ours.side.parameters() if p.grad is not None)
    for pair in pairs(released, ours):
        assert pair.released.grad is not None, pair.name
        assert pair.ours.grad is not None, pair.name
        torch.testing.assert_close(
            pair.released.grad,
            pair.part(pair.ours.grad),
            rtol=1e-8,
            atol=1e-9 * scale,
            msg=lambda text, name=pair.name: f"{name}: {text}",
        )


@pytest.mark.parametrize("dialect", ["clip", "eva"])
def test_every_parameter_has_its_pair(dialect: str) -> None:
    released, ours = make_pair(dialect)
    found = pairs(released, ours)
    assert {id(pair.released) for pair in found} == {id(p) for p in released.parameters() if p.requires_grad}
    assert {id(pair.ours) for pair in found} == {id(p) for p in ours.parameters() if p.requires_grad}
    assert sum(pair.released.numel() for pair in found) == sum(p.numel() for p in ours.parameters() if p.requires_grad)


@pytest.mark.parametrize("dialect", ["clip", "eva"])
def test_batch_norm_buffers_are_ours(dialect: str) -> None:
    released, ours = make_pair(dialect)
    clip_BTCHW = torch.randn(B, T, 3, SIZE, SIZE, dtype=torch.float64)
    released(clip_BTCHW)
    ours(clip_BTCHW)
    # modules stand in another order here and there: compare the sets of running means
    own = sorted((b.sum().item(), b.square().sum().item()) for n, b in released.named_buffers() if "running" in n)
    other = sorted((b.sum().item(), b.square().sum().item()) for n, b in ours.side.named_buffers() if "running" in n)
    assert len(own) > 8
    torch.testing.assert_close(torch.tensor(own), torch.tensor(other), rtol=1e-6, atol=1e-6)


def test_variants_of_the_paper_are_refused() -> None:
    backbone = create_backbone(make_tower("clip"), precision="fp32")
    with pytest.raises(ValueError, match="published recognition dialects only"):
        ReleasedLayout(backbone, CLASSES, SideSpec(width=16, shift=False))
