"""Every ViT-like model that timm lists keeps the promises of `ImageTrunk`; every other one is refused with a reason."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from contract.listing import narrow_timm, randomise, signature, small_timm, split_timm, timm_by_file
from side4video.backbones.base import FrozenBackbone
from side4video.backbones.timm_vit import TimmViT
from side4video.backbones.trunk import ImageTrunk, LayerTokens

CLIPS, FRAMES = 2, 4
GRID, OTHER_GRID = (3, 6), (9, 3)  # Gemma's own pass wants multiples of three

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm")


@cache
def listed() -> tuple[list[str], dict[str, str]]:
    return split_timm()


@cache
def on_meta() -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {name: small_timm(name) for name in listed()[0]}


@cache
def representatives() -> list[str]:
    """For each kind of code, the smallest model that runs it."""
    best: dict[object, tuple[int, str]] = {}
    for name, model in on_meta().items():
        size = sum(parameter.numel() for parameter in model.parameters())
        key = signature(model)
        best[key] = min(best.get(key, (size, name)), (size, name))
    return sorted(name for _, name in best.values())


def test_models_without_patch_tokens_are_refused_by_class_with_what_works() -> None:
    taken, refused = listed()
    print(f"\ntimm: {len(taken)} models taken; refused classes: {', '.join(sorted(refused))}")
    assert len(taken) >= 300
    assert len(refused) >= 50
    assert len(taken) < sum(map(len, timm_by_file().values()))
    assert {"ResNet", "ConvNeXt", "SwinTransformer", "Hiera", "MaxxVit", "EfficientNet", "ConVit", "TNT"} <= set(
        refused
    )
    for name, message in refused.items():
        assert message.startswith(f"{name} has no list of blocks over patch tokens"), message
        assert "what works" in message
        assert "side4video backbones" in message


def test_every_vit_like_model_has_the_promised_shapes() -> None:
    failures: dict[str, str] = {}
    for name, model in on_meta().items():
        trunk = TimmViT(model)
        assert isinstance(trunk, ImageTrunk)
        height, width = trunk.preprocessing.image_size
        rows, columns = trunk.grid((height, width))
        layers = _stream(trunk, torch.empty(CLIPS, FRAMES, 3, height, width, device="meta"))
        shape = (CLIPS, FRAMES, trunk.num_prefix + rows * columns, trunk.width)
        wrong = [
            f"layer {i}: {layer.layer} {tuple(layer.tokens_BTAD.shape)} {layer.grid_YX}"
            for i, layer in enumerate(layers)
            if (layer.layer, tuple(layer.tokens_BTAD.shape), layer.grid_YX) != (i, shape, (rows, columns))
        ]
        if wrong or len(layers) != trunk.depth or trunk.has_class_token > trunk.num_prefix:
            failures[name] = f"expected {shape}, got {wrong or len(layers)}"
        if (rows * trunk.patch_size[0], columns * trunk.patch_size[1]) > (height, width):
            failures[name] = f"{rows}x{columns} patches of {trunk.patch_size} do not fit {height}x{width}"
    assert not failures


def test_streaming_equals_the_models_own_intermediate_features() -> None:
    names = representatives()
    assert len(names) >= 80
    failures = {name: reason for name in names if (reason := _compare(name))}
    assert not failures, "\n".join(f"{name}: {reason}" for name, reason in failures.items())


def _compare(name: str) -> str:
    like = on_meta()[name]
    patch = TimmViT(like).patch_size
    size = (GRID[0] * patch[0], GRID[1] * patch[1])
    model = narrow_timm(name, like, img_size=size)
    randomise(model)
    trunk = TimmViT(model)
    backbone = FrozenBackbone(trunk, name=name)
    clip = torch.randn(CLIPS, FRAMES, 3, *size, generator=torch.Generator().manual_seed(1))
    calls = _count_calls(trunk)
    layers = _stream(trunk, clip)
    reasons = [] if calls == [1] * trunk.depth else [f"blocks ran {calls} times"]
    reasons += _differences(trunk, clip, layers, GRID)
    calls[:] = [0] * trunk.depth
    assert len(list(backbone.stream(clip, [0]))) == 1
    if calls != [1] + [0] * (trunk.depth - 1):
        reasons.append(f"no early stop: {calls}")
    sliced = list(backbone.stream(clip, range(trunk.depth), frame_slice=3))
    for whole, part in zip(layers, sliced, strict=True):
        if not torch.allclose(whole.tokens_BTAD, part.tokens_BTAD, rtol=1e-4, atol=1e-5 * _scale(whole.tokens_BTAD)):
            reasons.append(f"slices differ at layer {whole.layer}")
    reasons += _pooled(backbone, model, clip)
    if hasattr(model, "dynamic_img_size"):
        reasons += _other_size(name, like, model, patch, layers, clip)
    return "; ".join(reasons)


def _stream(trunk: TimmViT, clip: Tensor) -> list[LayerTokens]:
    backbone = FrozenBackbone(trunk, name="under test")
    layers: list[LayerTokens] = []
    first: Tensor | None = None
    for layer in backbone.stream(clip, range(trunk.depth)):
        first = layer.tokens_BTAD.clone() if first is None else first
        layers.append(layer)
    assert first is not None
    # a later block must not write into what was handed out
    assert clip.is_meta or torch.equal(first, layers[0].tokens_BTAD)
    return layers


def _differences(trunk: TimmViT, clip: Tensor, layers: list[LayerTokens], grid: tuple[int, int]) -> list[str]:
    prefix_option = {"return_prefix_tokens": True} if trunk.num_prefix else {}
    with torch.no_grad():
        expected = trunk.model.forward_intermediates(
            clip.flatten(0, 1), output_fmt="NCHW", intermediates_only=True, **prefix_option
        )
    reasons: list[str] = []
    for layer, own in zip(layers, expected, strict=True):
        patches_IDYX, prefix_IPD = own if trunk.num_prefix else (own, None)
        ours_IDYX = layer.patches_BTND.flatten(0, 1).transpose(1, 2).unflatten(2, layer.grid_YX)
        if tuple(patches_IDYX.shape[-2:]) != grid or not torch.equal(ours_IDYX, patches_IDYX):
            reasons.append(f"patches differ at layer {layer.layer}")
        if prefix_IPD is not None and not torch.equal(
            layer.tokens_BTAD[:, :, : trunk.num_prefix].flatten(0, 1), prefix_IPD
        ):
            reasons.append(f"prefix tokens differ at layer {layer.layer}")
        if not torch.isfinite(patches_IDYX).all():
            reasons.append("not finite")
    return reasons


def _pooled(backbone: FrozenBackbone, model: nn.Module, clip: Tensor) -> list[str]:
    trunk = backbone.trunk
    assert isinstance(trunk, TimmViT)
    if trunk.family.finish is None:
        return []
    with torch.no_grad():
        expected = model(clip.flatten(0, 1))
    if expected.ndim != 2:
        return []
    return [] if torch.equal(backbone.features(clip).flatten(0, 1), expected) else ["pooled features differ"]


def _other_size(
    name: str, like: nn.Module, model: nn.Module, patch: tuple[int, int], layers: list[LayerTokens], clip: Tensor
) -> list[str]:
    """As created by name: every size at run time, and at its own size the same numbers."""
    free = narrow_timm(name, like, img_size=tuple(clip.shape[-2:]), dynamic_img_size=True)
    free.load_state_dict(model.state_dict())
    trunk = TimmViT(free)
    reasons = [
        f"another number at its own size, layer {a.layer}"
        for a, b in zip(layers, _stream(trunk, clip), strict=True)
        if not torch.allclose(a.tokens_BTAD, b.tokens_BTAD, rtol=1e-4, atol=1e-5 * _scale(a.tokens_BTAD))
    ]
    other = torch.randn(CLIPS, FRAMES, 3, OTHER_GRID[0] * patch[0], OTHER_GRID[1] * patch[1])
    return reasons + _differences(trunk, other, _stream(trunk, other), OTHER_GRID)


def _scale(tokens: Tensor) -> float:
    return float(tokens.abs().max())


def _count_calls(trunk: TimmViT) -> list[int]:
    calls = [0] * trunk.depth

    def count(index: int) -> None:
        calls[index] += 1

    for index, block in enumerate(trunk.model.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: count(index))
    return calls
