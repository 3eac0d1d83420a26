from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.freezing import content_hash
from side4video.errors import BackboneError
from unit.backbones.toy import DEPTH, PATCH, PREFIX, WIDTH, ToyTrunk

B, T, Y, X = 3, 7, 4, 5


@pytest.fixture
def trunk() -> ToyTrunk:
    torch.manual_seed(0)
    return ToyTrunk()


@pytest.fixture
def backbone(trunk: ToyTrunk) -> FrozenBackbone:
    return FrozenBackbone(trunk, name="toy")


@pytest.fixture
def clip() -> Tensor:
    return torch.randn(B, T, 3, Y * PATCH[0], X * PATCH[1], generator=torch.Generator().manual_seed(1))


def by_hand(trunk: ToyTrunk, clip: Tensor) -> list[Tensor]:
    """All layers, the slow way: one frame at a time."""
    layers: list[list[Tensor]] = [[] for _ in range(DEPTH)]
    with torch.no_grad():
        for frame in clip.flatten(0, 1):
            tokens, context = trunk.embed(frame[None])
            for index in range(DEPTH):
                tokens = trunk.run_block(index, tokens, context)
                layers[index].append(tokens)
    trunk.calls.clear()
    return [torch.cat(frames).unflatten(0, (B, T)) for frames in layers]


def test_stream_yields_every_tapped_layer_in_order_of_depth(
    trunk: ToyTrunk, backbone: FrozenBackbone, clip: Tensor
) -> None:
    expected = by_hand(trunk, clip)
    layers = list(backbone.stream(clip, [4, 1, 2]))
    assert [layer.layer for layer in layers] == [1, 2, 4]
    for layer in layers:
        assert layer.tokens_BTAD.shape == (B, T, PREFIX + Y * X, WIDTH)
        assert (layer.num_prefix, layer.has_class_token, layer.grid_YX) == (PREFIX, True, (Y, X))
        torch.testing.assert_close(layer.tokens_BTAD, expected[layer.layer])


def test_blocks_after_the_last_tap_do_not_run(trunk: ToyTrunk, backbone: FrozenBackbone, clip: Tensor) -> None:
    _ = list(backbone.stream(clip, [0, 2]))
    assert trunk.calls == [(0, B * T), (1, B * T), (2, B * T)]


def test_a_layer_is_handed_over_before_the_next_block_runs(
    trunk: ToyTrunk, backbone: FrozenBackbone, clip: Tensor
) -> None:
    stream = backbone.stream(clip, range(DEPTH))
    assert trunk.calls == []
    next(stream)
    assert [index for index, _ in trunk.calls] == [0]


def test_frame_slices_bound_what_a_block_sees_and_give_the_same_numbers(
    trunk: ToyTrunk, backbone: FrozenBackbone, clip: Tensor
) -> None:
    whole = list(backbone.stream(clip, range(DEPTH)))
    trunk.calls.clear()
    trunk.embedded.clear()
    sliced = list(backbone.stream(clip, range(DEPTH), frame_slice=4))
    assert {size for _, size in trunk.calls} == set(trunk.embedded) == {4, B * T % 4}
    for one, other in zip(whole, sliced, strict=True):
        torch.testing.assert_close(one.tokens_BTAD, other.tokens_BTAD)
    torch.testing.assert_close(backbone.features(clip), backbone.features(clip, frame_slice=4))


def test_no_gradient_is_recorded_and_the_callers_mode_is_untouched(
    trunk: ToyTrunk, backbone: FrozenBackbone, clip: Tensor
) -> None:
    modes: set[bool] = set()
    for layer in backbone.stream(clip.requires_grad_(), range(DEPTH)):
        modes.add(torch.is_grad_enabled())
        assert not layer.tokens_BTAD.requires_grad
    assert (modes, trunk.grad_modes) == ({True}, {False})
    with torch.no_grad():
        for _ in backbone.stream(clip, [0]):
            assert not torch.is_grad_enabled()


def test_tokens_can_be_saved_for_a_backward_pass(backbone: FrozenBackbone, clip: Tensor) -> None:
    projection = nn.Linear(WIDTH, 3)
    total = torch.stack([projection(layer.patches_BTND).square().mean() for layer in backbone.stream(clip, [1, 3])])
    total.sum().backward()
    assert projection.weight.grad is not None
    assert projection.weight.grad.abs().sum() > 0


def test_frozen_through_train_of_its_owner(trunk: ToyTrunk, backbone: FrozenBackbone, clip: Tensor) -> None:
    owner = nn.Sequential(backbone, nn.Dropout())
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    owner.train()
    assert owner[1].training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in owner.parameters())
    one, other = list(backbone.stream(clip, [4])), list(backbone.stream(clip, [4]))
    assert torch.equal(one[0].tokens_BTAD, other[0].tokens_BTAD)
    assert all(torch.equal(before[key], value) for key, value in trunk.state_dict().items())


def test_own_precision_inside_autocast(trunk: ToyTrunk, clip: Tensor) -> None:
    backbone = FrozenBackbone(trunk, name="toy", precision=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers = list(backbone.stream(clip, [1]))
        features = backbone.features(clip)
    assert layers[0].tokens_BTAD.dtype == features.dtype == backbone.precision == torch.float32
    torch.testing.assert_close(layers[0].tokens_BTAD, by_hand(trunk, clip)[1])


def test_half_precision_casts_weights_and_buffers_but_not_computed_tables(trunk: ToyTrunk) -> None:
    backbone = FrozenBackbone(trunk, name="toy", precision=torch.bfloat16)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    assert trunk.norm.running_mean is not None
    assert trunk.norm.running_mean.dtype == torch.bfloat16
    assert trunk.table.angles.dtype == torch.float32


def test_features_are_the_trunks_own_ending(trunk: ToyTrunk, backbone: FrozenBackbone, clip: Tensor) -> None:
    expected = by_hand(trunk, clip)[-1].mean(dim=2)[..., :4]
    torch.testing.assert_close(backbone.features(clip), expected)


def test_the_hash_speaks_of_the_weights_before_a_cast() -> None:
    def made(seed: int = 3) -> ToyTrunk:
        torch.manual_seed(seed)
        return ToyTrunk()

    plain = FrozenBackbone(made(), name="a")
    assert FrozenBackbone(made(), name="b", precision=torch.bfloat16).content_hash() == plain.content_hash()
    assert FrozenBackbone(made(), name="b", weights_hash="known").content_hash() == "known"
    assert FrozenBackbone(made(4), name="a").content_hash() != plain.content_hash()
    changed = made()
    with torch.no_grad():
        changed.prefix[1, 2] += 1e-6
    assert content_hash(changed) != plain.content_hash()
    halves = made().half()
    assert content_hash(halves) == content_hash(halves.float())


def test_identity_is_plain_json(backbone: FrozenBackbone) -> None:
    identity = json.loads(json.dumps(backbone.identity()))
    assert identity == {
        "name": "toy",
        "hash": backbone.content_hash(),
        "image_size": [12, 14],
        "patch_size": [4, 2],
        "width": WIDTH,
        "depth": DEPTH,
        "num_prefix": PREFIX,
        "has_class_token": True,
    }


@pytest.mark.parametrize("taps", [[], [-1], [0, DEPTH]])
def test_taps_outside_the_depth_are_refused(backbone: FrozenBackbone, clip: Tensor, taps: list[int]) -> None:
    with pytest.raises(BackboneError, match=r"taps: got \[.*block indices from 0 to 4"):
        list(backbone.stream(clip, taps))


@pytest.mark.parametrize("shape", [(2, 3, 12, 14), (2, 5, 4, 12, 14)])
def test_other_layouts_of_pixels_are_refused(backbone: FrozenBackbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(BackboneError, match=r"clip: got shape .*clips, frames, 3, height, width"):
        list(backbone.stream(torch.zeros(shape), [0]))


def test_image_sizes_are_checked(backbone: FrozenBackbone) -> None:
    with pytest.raises(BackboneError, match="got 13x14, allowed are multiples of the patch size 4x2"):
        list(backbone.stream(torch.zeros(2, 3, 3, 13, 14), [0]))


def test_a_trunk_must_keep_the_protocol() -> None:
    with pytest.raises(
        BackboneError, match=r"backbone 'x': a trunk must be an nn.Module with the members of ImageTrunk"
    ):
        FrozenBackbone(nn.Linear(2, 3), name="x")


def test_no_frames_give_no_tokens(backbone: FrozenBackbone) -> None:
    (layer,) = backbone.stream(torch.zeros(0, T, 3, 12, 14), [1])
    assert layer.tokens_BTAD.shape == (0, T, PREFIX + 21, WIDTH)
