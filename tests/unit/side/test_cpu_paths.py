"""What CPUs compute in another way in 16 bits: the same numbers up to that precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.side.block import attend
from side4video.side.norms import apply_norm, simulated_gpu

# images, heads, queries, keys, width of a head
IMAGES, HEADS, M, Q, E = 3, 2, 5, 7, 8
BF16_STEP = 2**-8


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return list(torch.autograd.grad((out.float() * weights).sum(), inputs))


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.detach().float() - want.detach()).abs().max() / want.detach().abs().max())


def test_attention_in_plain_products_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = ((IMAGES, HEADS, M, E), (IMAGES, HEADS, Q, E), (IMAGES, HEADS, Q, E))
    given = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    small = [tensor.clone().requires_grad_() for tensor in given]
    exact = [tensor.float().requires_grad_() for tensor in given]
    expected = F.scaled_dot_product_attention(*exact)
    wanted = gradients(expected, exact)
    fused: list[int] = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args: fused.append(1) or expected)
    found = attend(*small)
    assert not fused
    assert found.dtype == torch.bfloat16
    for got, want in zip([found, *gradients(found, small)], [expected, *wanted], strict=True):
        assert relative_error(got, want) < 4 * BF16_STEP
    # float32, and what stands for a GPU, take the fused kernel
    attend(*exact)
    with simulated_gpu():
        attend(*small)
    assert len(fused) == 2


def test_batch_norm_of_16_bit_rows() -> None:
    generator = torch.Generator().manual_seed(4)
    x_BTMS = (torch.randn(2, 3, 5, 6, generator=generator) * 3 + 1).bfloat16()
    norms = [nn.BatchNorm1d(6) for _ in range(2)]
    small, exact = x_BTMS.clone().requires_grad_(), x_BTMS.float().requires_grad_()
    found, expected = apply_norm(norms[0], small), apply_norm(norms[1], exact)
    assert found.dtype == torch.bfloat16
    pairs = [(found, expected), (gradients(found, [small])[0], gradients(expected, [exact])[0])]
    pairs += [(norms[0].running_mean, norms[1].running_mean), (norms[0].running_var, norms[1].running_var)]
    for got, want in pairs:
        assert isinstance(got, Tensor)
        assert isinstance(want, Tensor)
        assert relative_error(got, want) < 4 * BF16_STEP
