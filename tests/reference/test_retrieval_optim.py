"""The retrieval optimiser, its rate and its groups against the released code's trace, curve and lists of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reference.cases import load_case
from side4video.official import from_official
from side4video.official.names import OfficialLayout
from side4video.official.retrieval import retrieval_names
from side4video.training.optim import set_rate
from side4video.training.retrieval_optim import (
    RetrievalAdam,
    make_retrieval_optimizer,
    retrieval_groups,
    retrieval_rate,
)


def curves(parity_dir: Path) -> dict[str, Any]:
    return json.loads((parity_dir / "lr.json").read_text())


def test_rate_equals_the_released_curve(parity_dir: Path) -> None:
    curve = curves(parity_dir)["retrieval"]
    ours = [
        retrieval_rate(step, curve["total_steps"], lr=curve["lr"], warmup=curve["warmup_proportion"])
        for step in range(curve["total_steps"])
    ]
    assert len(ours) == len(curve["lr_per_step"]) == 50
    assert ours == pytest.approx(curve["lr_per_step"], rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("case", [0, 1])
def test_steps_equal_the_released_trace(parity_dir: Path, case: int) -> None:
    trace = curves(parity_dir)["retrieval_optimizer_trace"][case]
    parameter = torch.nn.Parameter(torch.tensor(trace["p0"]))
    optimizer = RetrievalAdam(
        [parameter],
        betas=(trace["b1"], trace["b2"]),
        eps=trace["e"],
        weight_decay=trace["weight_decay"],
        max_norm=trace["max_grad_norm"],
    )
    steps = list(zip(trace["grads_before_clipping"], trace["p_after_each_step"], strict=True))
    assert len(steps) == 6
    for step, (grad, after) in enumerate(steps):
        parameter.grad = torch.tensor(grad)
        optimizer.param_groups[0]["lr"] = retrieval_rate(step, trace["t_total"], lr=trace["lr"], warmup=trace["warmup"])
        optimizer.step()
        # float32: the last bit may differ
        torch.testing.assert_close(parameter.detach(), torch.tensor(after), atol=0, rtol=2.5e-7)
        assert torch.equal(parameter.grad, torch.tensor(grad))


def test_groups_equal_the_released_code(parity_dir: Path) -> None:
    case = load_case(parity_dir / "retrieval_clip_eval")
    model = from_official(case.weights, task="retrieval", num_heads=2, text_heads=1)
    names = retrieval_names(OfficialLayout("clip", retrieval=True), len(model.side.blocks), text=model.text, wti=True)
    groups = retrieval_groups(model)
    ours = {
        ("decay 0.2" if g.weight_decay else "decay 0") + (", lr" if g.lr_scale == 1 else ", lr*coef_lr"): {
            names[name][0] for name in g.names
        }
        for g in groups
    }
    assert ours == {name: set(members) for name, members in case.record["optimizer_groups"].items()}
    assert {g.lr_scale for g in groups} == {1.0, 1e-3}
    optimizer = make_retrieval_optimizer(groups)
    set_rate(optimizer, 1e-4)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx([1e-7, 1e-4])
