from __future__ import annotations

import pytest
import torch
from torch import nn

from side4video.backbones import precision as module
from side4video.backbones.precision import checkpoint_precision, resolve_precision
from side4video.errors import BackboneError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def half_checkpoint(dtype: torch.dtype) -> nn.Module:
    """As libraries hold it: fp32 modules, matrices that came in half precision, norms that did not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7))
    model[0].weight.data = model[0].weight.data.to(dtype).float()
    model[1].weight.data.normal_()
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gpu_gets_the_checkpoints_own(dtype: torch.dtype) -> None:
    assert resolve_precision("auto", half_checkpoint(dtype), GPU) == dtype
    assert checkpoint_precision(half_checkpoint(dtype)) == dtype


def test_one_value_that_does_not_fit_decides() -> None:
    model = half_checkpoint(torch.float16)
    model[0].weight.data[0, 0] = 2.0**20
    assert checkpoint_precision(model) == torch.float32


@pytest.mark.parametrize(("units", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_gets_bf16_where_it_has_units(
    monkeypatch: pytest.MonkeyPatch, units: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: units)
    assert resolve_precision("auto", half_checkpoint(torch.float16), CPU) == expected


@pytest.mark.parametrize(("unit", "expected"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_f", False)])
def test_units_are_read_from_the_processor(monkeypatch: pytest.MonkeyPatch, unit: str, expected: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True, "amx_tile": False})
    assert module.cpu_has_bf16() is expected


def test_named_precisions_win() -> None:
    model = half_checkpoint(torch.float32)
    assert [resolve_precision(name, model, GPU) for name in ("fp32", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    with pytest.raises(BackboneError, match="precision: got 'int8', allowed are auto, fp32, bf16, fp16"):
        resolve_precision("int8", model, CPU)
