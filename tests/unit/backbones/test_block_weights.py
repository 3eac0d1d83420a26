"""Frozen blocks whose weights rest elsewhere: streaming changes nothing, quantisation little, and both can move."""

from __future__ import annotations

import copy

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from side4video.backbones import FrozenBackbone, create_backbone
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.backbones.quantised import Quantisation, is_matrix, pack, unpack
from side4video.errors import BackboneError

D, DEPTH = 64, 5
ERRORS: dict[Quantisation, float] = {"int8": 0.02, "fp8": 0.08, "int4": 0.3}


def tower() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=24, patch_size=8, width=D, layers=DEPTH, heads=2, mlp_ratio=2.0, output_dim=12
    ).eval()


def clip() -> Tensor:
    return torch.randn(2, 3, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def layers_of(backbone: FrozenBackbone, frame_slice: int | None = 4) -> list[Tensor]:
    return [layer.tokens_BTAD for layer in backbone.stream(clip(), (0, 2, 4), frame_slice=frame_slice)]


def streamed(*, copies: bool, quantise: Quantisation = "none") -> FrozenBackbone:
    """A backbone whose blocks are copied to the "device" although that is the CPU, as on a GPU."""
    backbone = FrozenBackbone(OpenClipViT(tower()), name="x")
    backbone.quantise, backbone.stream_weights = quantise, True
    backbone.keep_blocks(copies=copies)
    return backbone


@pytest.mark.parametrize("copies", [False, True])
def test_streaming_is_exact(copies: bool) -> None:
    plain, backbone = create_backbone(tower(), precision="fp32"), streamed(copies=copies)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(layers_of(backbone), layers_of(plain), strict=True))
    torch.testing.assert_close(backbone.features(clip()), plain.features(clip()), atol=0, rtol=0)
    assert backbone.content_hash() == plain.content_hash()
    assert backbone.state_dict().keys() == plain.state_dict().keys()
    assert (backbone.host_bytes > 0) == copies


def test_two_blocks_are_on_the_device_at_a_time() -> None:
    backbone = streamed(copies=True)
    blocks = sum(p.numel() * 4 for p in backbone.trunk.block(0).parameters()) * DEPTH
    resident = sum(t.numel() * t.element_size() for t in backbone.resident())
    assert resident + blocks == sum(p.numel() * 4 for p in backbone.parameters())
    seen: list[int] = []
    host = [p.data_ptr() for p in backbone.trunk.block(2).parameters()]
    backbone.trunk.block(2).register_forward_pre_hook(
        lambda module, _: seen.extend(p.data_ptr() for p in module.parameters())
    )
    layers_of(backbone, None)
    assert seen
    assert not set(seen) & set(host)
    assert [p.data_ptr() for p in backbone.trunk.block(2).parameters()] == host


def test_a_pass_that_is_left_early_leaves_everything_in_its_place() -> None:
    backbone = streamed(copies=True)
    expected = layers_of(backbone)
    passing = backbone.stream(clip(), (0, 2, 4))
    next(passing)
    passing.close()
    assert all(torch.equal(a, b) for a, b in zip(layers_of(backbone), expected, strict=True))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_quantised_blocks_are_near_and_smaller(kind: Quantisation, stream: bool) -> None:
    plain = create_backbone(tower(), precision="fp32")
    backbone = create_backbone(tower(), precision="fp32", quantise=kind, stream_weights=stream)
    for found, exact in zip(layers_of(backbone), layers_of(plain), strict=True):
        error = float((found - exact).norm() / exact.norm())
        assert 0 < error < ERRORS[kind]
    assert backbone.content_hash() == plain.content_hash()
    share = {"int8": 0.30, "fp8": 0.30, "int4": 0.18}[kind]
    packed = sum(t.numel() * t.element_size() for t in backbone.resident())
    assert (
        packed < share * sum(p.numel() * 4 for p in plain.parameters()) + 4 * D * 12 * 4 + 3 * 64 * D * 4 + 4 * D * 20
    )
    # nobody takes what stands in for a packed matrix for the matrix
    assert backbone.trunk.block(1).mlp.c_fc.weight.isnan().all()
    assert backbone.trunk.block(1).mlp.c_fc.weight.shape == plain.trunk.block(1).mlp.c_fc.weight.shape


def test_copies_and_moves_keep_their_weights() -> None:
    backbone = create_backbone(tower(), precision="fp32", quantise="int8")
    expected = layers_of(backbone)
    other = copy.deepcopy(backbone).to("cpu")
    del backbone
    assert all(torch.equal(a, b) for a, b in zip(layers_of(other), expected, strict=True))


def test_another_precision_afterwards_is_refused() -> None:
    backbone = create_backbone(tower(), precision="fp32", quantise="int8")
    with pytest.raises(BackboneError, match="ask create_backbone for another"):
        nn.Sequential(backbone).to(torch.bfloat16)


def test_a_kind_that_there_is_not_is_refused() -> None:
    with pytest.raises(BackboneError, match="allowed are none, int8, fp8, int4"):
        create_backbone(tower(), quantise="int2")  # type: ignore[arg-type]


def test_a_trunk_without_blocks_is_refused() -> None:
    trunk = OpenClipViT(tower())
    trunk.block = None  # type: ignore[assignment,method-assign]
    with pytest.raises(BackboneError, match=r"a method block\(index\)"):
        FrozenBackbone(trunk, name="x", stream_weights=True)


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 1 / 254), ("fp8", 1 / 16), ("int4", 1 / 14)])
@pytest.mark.parametrize("shape", [(48, 96), (33, 160), (64, 4, 32)])
def test_each_value_is_off_by_half_a_step(kind: Quantisation, tolerance: float, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * torch.rand(
        shape[0], *[1] * (len(shape) - 1)
    )
    weight[5] = 0
    found = unpack(*pack(weight, kind), kind, weight.shape, torch.float32)
    largest = weight.flatten(1).abs().amax(1).view(-1, *[1] * (len(shape) - 1))
    assert found.shape == weight.shape
    assert bool(((found - weight).abs() <= 1.01 * tolerance * largest).all())
    assert not found[5].any()


def test_norms_biases_and_tables_are_left_alone() -> None:
    assert is_matrix(torch.empty(64, 48))
    assert not any(is_matrix(torch.empty(shape)) for shape in [(64,), (1, 64), (732, 12), (12, 732)])


def test_compiled_blocks_compute_the_same() -> None:
    plain, backbone = create_backbone(tower(), precision="fp32"), streamed(copies=True)
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    backbone.compile_blocks(backend=backend)
    for found, exact in zip(layers_of(backbone, None), layers_of(plain, None), strict=True):
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()
    assert graphs, "nothing was compiled"
