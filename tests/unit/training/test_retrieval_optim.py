"""The retrieval optimiser: clipping, decay, state that resumes, and values that it refuses."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from side4video.training.retrieval_optim import RetrievalAdam, retrieval_rate


def make_parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), ())]
    for scale, parameter in zip((3.0, 0.4, 2.0), parameters, strict=True):
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
    return parameters


def slow_step(p: torch.Tensor, grad: torch.Tensor, total: float, *, lr: float, decay: float) -> torch.Tensor:
    grad = grad * min(1.0, 1 / (total + 1e-6))
    grad = grad * min(1.0, 1 / (float(grad.norm()) + 1e-6))
    mean, square = 0.1 * grad, 0.02 * grad**2
    return p - lr * (mean / (square.sqrt() + 1e-6) + decay * p)


def test_one_step_equals_the_released_steps_with_both_clippings() -> None:
    parameters = make_parameters()
    before = [p.detach().clone() for p in parameters]
    total = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in parameters if p.grad is not None))
    assert total > 1
    groups: list[dict[str, Any]] = [
        {"params": parameters[:1]},
        {"params": parameters[1:], "weight_decay": 0.0, "lr": 0.5},
    ]
    RetrievalAdam(groups, lr=0.1).step()
    for p, old, (lr, decay) in zip(parameters, before, [(0.1, 0.2), (0.5, 0.0), (0.5, 0.0)], strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.detach(), slow_step(old, p.grad, total, lr=lr, decay=decay), atol=1e-6, rtol=1e-5)
    # without clipping it is another step
    others = make_parameters()
    RetrievalAdam(others, lr=0.1, max_norm=None, weight_decay=0.0).step()
    assert not torch.allclose(others[1], parameters[1])


def test_state_resumes_exactly() -> None:
    first, whole = make_parameters(), make_parameters()
    a, b = RetrievalAdam(first, lr=0.1), RetrievalAdam(whole, lr=0.1)
    for _ in range(2):
        a.step()
    for _ in range(4):
        b.step()
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    for new, old in zip(second, first, strict=True):
        new.grad = old.grad
    resumed = RetrievalAdam(second, lr=9.0)
    resumed.load_state_dict(copy.deepcopy(a.state_dict()))
    for _ in range(2):
        resumed.step()
    for mine, theirs in zip(second, whole, strict=True):
        assert torch.equal(mine, theirs)


def test_parameters_without_gradient_stay() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = RetrievalAdam([parameter], lr=1.0)
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(3))
    assert not optimizer.state


def test_rate_falls_to_zero_and_never_below() -> None:
    rates = [retrieval_rate(step, 40, lr=1.0, warmup=0.25) for step in range(45)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(10)])
    assert rates[10] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert rates[40:] == [0.0] * 5
    assert retrieval_rate(0, 7, lr=1.0, warmup=0.0) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0; got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"betas": (0.9, 1.0)}, r"betas must be .* less than 1; got \(0.9, 1.0\)"),
        ({"max_norm": 0.0}, "max_norm must be positive"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalAdam([torch.nn.Parameter(torch.ones(2))], **settings)
    with pytest.raises(ValueError, match="total_steps of at least 1"):
        retrieval_rate(0, 0)
