"""Backbone and side network together: what trains, what is kept for the backward pass, what stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from side4video.backbones import FrozenBackbone, create_backbone
from side4video.model import Side4Video, make_side_network
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier

B, T, SIZE, PATCH, D = 2, 5, 24, 8, 32
SPEC = SideSpec(width=16, taps=(0, 2))


def make_backbone(depth: int = 3) -> FrozenBackbone:
    torch.manual_seed(0)
    tower = VisionTransformer(
        image_size=SIZE, patch_size=PATCH, width=D, layers=depth, heads=4, mlp_ratio=2.0, output_dim=12
    )
    return create_backbone(tower, precision="fp32")


def make_clip(num_frames: int = T) -> Tensor:
    return torch.randn(B, num_frames, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def saved_bytes(model: VideoClassifier) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(make_clip()).sum()
    total = sum(size for pointer, size in storages.items() if pointer not in own)
    loss.backward()
    return total


def test_saved_bytes_do_not_grow_with_the_untapped_backbone() -> None:
    shallow, deep = (VideoClassifier(make_backbone(depth), 7, side=SPEC).train() for depth in (3, 9))
    assert saved_bytes(shallow) == saved_bytes(deep) > 0
    # the measure itself sees a difference: one more tap keeps more
    more = VideoClassifier(make_backbone(9), 7, side=replace(SPEC, taps=(0, 2, 5))).train()
    assert saved_bytes(more) > saved_bytes(deep)


def test_training_changes_side_and_head_and_nothing_else() -> None:
    model = VideoClassifier(make_backbone(), 7, side=SPEC).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(make_clip()), torch.tensor([step, 6])).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith("video.backbone.")}
    trained = {f"video.{n}" if n.startswith("side.") else n for n in model.trainable_state()}
    assert changed <= trained
    # train-mode batch norm hides constant shifts before it; everything else must have moved
    still = {n for n in trained - changed if "bias" not in n}
    assert not still
    assert not any(module.training for module in model.backbone.modules())


def test_frames_can_be_sliced_without_another_result() -> None:
    backbone = make_backbone()
    side = make_side_network(backbone, SPEC).eval()
    whole = Side4Video(backbone, side)(make_clip()).patches_BTNS
    sliced = Side4Video(backbone, side, frame_slice=3)(make_clip()).patches_BTNS
    torch.testing.assert_close(whole, sliced, atol=1e-5, rtol=0)


def test_the_number_of_frames_and_the_size_are_free() -> None:
    model = VideoClassifier(make_backbone(), 7, side=SPEC).eval()
    assert model(make_clip(num_frames=11)).shape == (B, 7)
    assert model(torch.randn(B, T, 3, 32, 40)).shape == (B, 7)


@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (2, 5, 1, 24, 24), (5, 3, 24, 24)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    model = VideoClassifier(make_backbone(), 7, side=SPEC)
    with pytest.raises(ValueError, match="BTCHW"):
        model(torch.zeros(shape))
