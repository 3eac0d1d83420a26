"""Which parameter trains at which rate and decay; every trained parameter is in exactly one group."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from side4video.config.groups import OptimSettings
from side4video.training.optim import make_optimizer, named_trainables, parameter_groups, set_rate


def test_groups_of_the_paper(small: ModuleType) -> None:
    model = small.small_model()
    groups = parameter_groups(model, OptimSettings(side_lr_ratio=0.25, accumulate=4))
    assert [group.name for group in groups] == ["side", "side batch norms", "head"]
    assert [group.lr_scale for group in groups] == [0.25, 1.0, 1.0]
    assert {group.weight_decay for group in groups} == {0.15}
    side, norms, head = (set(group.names) for group in groups)
    assert head == {"head.weight", "head.bias"}
    assert "side.blocks.1.mlp_norm.weight" in norms
    assert "side.stem.norm.bias" in norms
    assert "side.norm.weight" in norms
    # layer norms are not batch norms: they train with the rest
    assert {"side.blocks.1.attention_norm.weight", "side.projections.2.norm.bias", "side.position"} <= side
    every = [name for group in groups for name in group.names]
    assert sorted(every) == sorted(name for name, _ in named_trainables(model))
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in groups for p in group.parameters} == trained


def test_official_divides_the_rate_of_batch_norms_by_the_accumulation_steps(small: ModuleType) -> None:
    groups = parameter_groups(small.small_model(), OptimSettings(accumulate=4, schedule_every="official"))
    assert {group.name: group.lr_scale for group in groups} == {"side": 1.0, "side batch norms": 0.25, "head": 1.0}


def test_norms_biases_and_positions_without_decay(small: ModuleType) -> None:
    model = small.small_model()
    groups = parameter_groups(model, OptimSettings(decay_norm_and_bias=False))
    free = {name for group in groups if group.weight_decay == 0 for name in group.names}
    decayed = {name for group in groups if group.weight_decay == 0.15 for name in group.names}
    assert not free & decayed
    assert free == {name for name, p in named_trainables(model) if p.dim() == 1 or name == "side.position"}
    assert "side.position" in free
    assert "head.weight" in decayed


@pytest.mark.parametrize("fused", [False, True])
def test_set_rate_reaches_every_group(small: ModuleType, fused: bool) -> None:
    model, settings = small.small_model(), OptimSettings(side_lr_ratio=0.5)
    optimizer = make_optimizer(parameter_groups(model, settings), settings, fused=fused)
    set_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.02, 0.02]
    before = {name: p.detach().clone() for name, p in named_trainables(model)}
    for _, parameter in named_trainables(model):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # the first step of Adam moves each weight by its rate, after decaying it by rate x decay
    for name, parameter in named_trainables(model):
        rate = 0.01 if name.startswith("side") and "norm" not in name.split(".")[-2] else 0.02
        if "attention_norm" in name or "projections" in name:
            rate = 0.01
        assert torch.allclose(parameter, before[name] * (1 - rate * 0.15) - rate, atol=1e-6), name
