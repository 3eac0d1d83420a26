"""Temporal mixing against the plain convolution it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from side4video.side import temporal
from side4video.side.kernels import depthwise_rows
from side4video.side.temporal import DepthwiseTime, TemporalAttention, TemporalConv, depthwise_time


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_depthwise_equals_conv3d(kernel: int, num_frames: int) -> None:
    width = 6
    module = DepthwiseTime(width, kernel).double()
    x_BTNS = torch.randn(2, num_frames, 5, width, dtype=torch.float64)
    reference = F.conv3d(
        x_BTNS.permute(0, 3, 1, 2)[..., None],
        module.weight.view(width, 1, kernel, 1, 1),
        module.bias,
        padding=(kernel // 2, 0, 0),
        groups=width,
    )
    torch.testing.assert_close(module(x_BTNS), reference[..., 0].permute(0, 2, 3, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_depthwise_gradients_are_autograds_own(kernel: int, num_frames: int) -> None:
    module = DepthwiseTime(6, kernel).double()
    x_BTNS = torch.randn(2, num_frames, 5, 6, dtype=torch.float64, requires_grad=True)
    wanted = (x_BTNS, module.weight, module.bias)
    plain_BTNS, out_BTNS = depthwise_time(*wanted), module(x_BTNS)
    grad_BTNS = torch.randn_like(out_BTNS)
    assert torch.equal(out_BTNS, plain_BTNS)
    expected = torch.autograd.grad(plain_BTNS, wanted, grad_BTNS)
    torch.testing.assert_close(torch.autograd.grad(out_BTNS, wanted, grad_BTNS), expected, atol=1e-12, rtol=0)
    # frozen tokens below: nothing is computed for them
    below = module(x_BTNS.detach())
    torch.testing.assert_close(torch.autograd.grad(below, wanted[1:], grad_BTNS), expected[1:], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("num_frames", [1, 2, 7])
@pytest.mark.parametrize("shape", ["whole", "slice"])
def test_the_processors_own_kernel_is_the_same(
    shape: str, num_frames: int, kernel: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, used = DepthwiseTime(24, kernel), []
    monkeypatch.setattr(temporal, "depthwise_rows", lambda *args: used.append(True) or depthwise_rows(*args))
    x_BTNS = torch.randn(2, num_frames, 9, 24).to(dtype)
    grad_BTNS = torch.randn(2, num_frames, 9, 24).to(dtype)
    # tokens without the first, as a side block cuts them off: rows are apart in memory
    x_BTNS = (x_BTNS[:, :, 1:] if shape == "slice" else x_BTNS).requires_grad_()
    grad_BTNS = grad_BTNS[:, :, : x_BTNS.shape[2]]
    wanted = (x_BTNS, module.weight, module.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        out_BTNS = module(x_BTNS)
    has_kernel = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert bool(used) == (kernel > 1 and torch.backends.mkldnn.is_available() and has_kernel)
    assert out_BTNS.dtype == dtype
    exact = [tensor.detach().double().requires_grad_() for tensor in wanted]
    with torch.no_grad():  # of the weights that the kernel sees
        exact[1].copy_(module.weight.to(dtype))
        exact[2].copy_(module.bias.to(dtype))
    truth_BTNS = depthwise_time(*exact)
    found = [out_BTNS, *torch.autograd.grad(out_BTNS, wanted, grad_BTNS)]
    expected = [truth_BTNS, *torch.autograd.grad(truth_BTNS, exact, grad_BTNS.double())]
    for one, truth in zip(found, expected, strict=True):
        assert float((one.double() - truth).detach().abs().max()) <= tolerance * float(truth.detach().abs().max())


def test_conv_mixes_neighbours_only() -> None:
    module = TemporalConv(6)
    x_BTNS = torch.randn(2, 7, 5, 6)
    changed = x_BTNS.clone()
    changed[:, 3] += 1
    moved_T = (module(changed) - module(x_BTNS)).abs().amax((0, 2, 3)) > 1e-6
    assert moved_T.tolist() == [False, False, True, True, True, False, False]


def test_conv_has_no_activation_between() -> None:
    module = TemporalConv(6).double()
    x, y = torch.randn(2, 2, 7, 5, 6, dtype=torch.float64)
    zero = module(torch.zeros_like(x))
    torch.testing.assert_close(module(x + y) - zero, module(x) - zero + module(y) - zero, atol=1e-12, rtol=0)


def test_attention_mixes_frames_within_a_place() -> None:
    module = TemporalAttention(6, 2)
    x_BTNS = torch.randn(2, 7, 5, 6)
    changed = x_BTNS.clone()
    changed[0, 3, 2] += 1
    moved_BTN = (module(changed) - module(x_BTNS)).abs().amax(-1) > 1e-6
    assert moved_BTN[0, :, 2].all()
    moved_BTN[0, :, 2] = False
    assert not moved_BTN.any()
