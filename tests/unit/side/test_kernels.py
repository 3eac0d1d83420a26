"""oneDNN's kernels give the numbers of torch's own, and run where they should."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from side4video.side import kernels
from side4video.side.fusion import Projection
from side4video.side.kernels import apply_linear, fused, linear
from side4video.side.network import SideNetwork, to_patches
from side4video.side.norms import simulated_gpu
from side4video.side.spec import SideSpec

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


class Names(TorchDispatchMode):
    """The names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@contextmanager
def names() -> Generator[list[str]]:
    with Names() as mode:
        yield mode.seen


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_linear_map_with_and_without_gelu(dtype: torch.dtype, bias: bool, gelu: bool) -> None:
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float64: 1e-14}[dtype]
    x = torch.randn(2, 3, 7, 24).to(dtype)[:, :, 1:]  # rows apart in memory
    module = nn.Linear(24, 16, bias=bias, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.no_grad(), fused(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = apply_linear(module, x, gelu=gelu)
        assert torch.equal(linear(x, module.weight, module.bias), apply_linear(module, x))
    weight, bias_S = (None if one is None else one.detach().to(dtype).double() for one in (module.weight, module.bias))
    expected = F.linear(x.double(), weight, bias_S)
    expected = F.gelu(expected) if gelu else expected
    assert found.dtype == dtype
    assert float((found.double() - expected).abs().max()) <= tolerance * float(expected.abs().max())


@needs_onednn
def test_only_for_inference_on_a_real_cpu() -> None:
    x, module, called = torch.randn(3, 8), nn.Linear(8, 4), []
    module.register_forward_hook(lambda *_: called.append(True))
    with fused(), names() as seen:
        apply_linear(module, x, gelu=True).sum().backward()
    assert module.weight.grad is not None
    with torch.no_grad(), names() as more:
        apply_linear(module, x, gelu=True)
    with torch.no_grad(), fused(), simulated_gpu(), names() as simulated:
        apply_linear(module, x, gelu=True)
    assert not [name for name in (*seen, *more, *simulated) if "mkldnn" in name]
    assert len(called) == 3
    with torch.no_grad(), fused(), names() as fast:
        apply_linear(module, x, gelu=True)
    assert [name for name in fast if "mkldnn::_linear_pointwise" in name]


def test_patches_are_those_of_a_convolution() -> None:
    clip_BTCHW, weight = torch.randn(2, 3, 3, 17, 22, dtype=torch.float64), torch.randn(5, 3, 4, 6, dtype=torch.float64)
    expected = F.conv2d(clip_BTCHW.flatten(0, 1), weight, stride=(4, 6)).flatten(2).transpose(1, 2).unflatten(0, (2, 3))
    found = to_patches(clip_BTCHW, (4, 6)) @ weight.flatten(1).T
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_the_stem_in_bfloat16_is_the_convolution(make_inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    network = SideNetwork(
        SideSpec(width=16, num_heads=2), backbone_width=24, depth=3, grid_YX=(3, 4), patch_size=(6, 6)
    )
    assert network.stem is not None
    clip_BTCHW, _ = make_inputs(1)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for available in (True, False):
        monkeypatch.setattr("side4video.side.network.has_kernels", lambda *_, value=available: value)
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts = network.stem.parts(clip_BTCHW)
        parts.float().square().sum().backward()
        assert network.stem.weight.grad is not None
        found.append((parts.detach(), network.stem.weight.grad.clone()))
    for ours, convolution in zip(*found, strict=True):
        assert ours.dtype == convolution.dtype
        assert float((ours - convolution).abs().max()) <= 1e-2 * float(convolution.abs().max())


def test_side_networks_normalise_shared_tokens_once(make_inputs) -> None:
    (layer,) = make_inputs(1)[1]
    projections = [Projection(24, 16, norm_at="input") for _ in range(2)]
    for projection in projections:
        torch.nn.init.normal_(projection.norm.weight)
        torch.nn.init.normal_(projection.norm.bias)
    known: dict[tuple[torch.dtype, float], torch.Tensor] = {}
    with torch.no_grad(), names() as seen:
        inners = [projection.inner(layer.tokens_BTAD, known) for projection in projections]
    assert sum("native_layer_norm" in name for name in seen) == 1
    for projection, inner in zip(projections, inners, strict=True):
        last = projection.last()
        assert last is not None
        torch.testing.assert_close(F.linear(inner, *last), projection(layer.tokens_BTAD))
    # after the linear map each has its own
    after = Projection(24, 16, norm_at="output")
    assert torch.equal(after.inner(layer.tokens_BTAD, known), after.inner(layer.tokens_BTAD))
    assert len(known) == 1


def test_one_precision_does_not_take_anothers_tokens(make_inputs) -> None:
    (layer,) = make_inputs(1)[1]
    known: dict[tuple[torch.dtype, float], torch.Tensor] = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            assert Projection(24, 16, norm_at="input").to(dtype).inner(layer.tokens_BTAD, known).dtype == dtype
    assert len(known) == 2
    assert kernels.computing_dtype(torch.empty(1, device="meta")) == torch.float32
