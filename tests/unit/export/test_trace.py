from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from side4video.errors import ConfigError
from side4video.export.parts import MAX_SIZE, Part, TensorSpec
from side4video.export.trace import trace
from side4video.side.temporal import TemporalAttention, TemporalConv

SHAPE = (3, "frames", 5, 8)


def part_of(module: nn.Module) -> Part:
    spec = TensorSpec("x", SHAPE)
    return Part("full", "", module, (spec,), (spec,), lambda clip: (clip,))


def test_where_torch_takes_one_frame_for_another_program_two_are_the_least() -> None:
    torch.manual_seed(0)
    for module, least in ((TemporalConv(8), 1), (TemporalAttention(8, 2), 2)):
        traced = trace(part_of(module))
        assert traced.limits == {"frames": (least, MAX_SIZE)}
        x_BTNS = torch.randn(3, least + 3, 5, 8)
        with torch.no_grad():
            assert torch.allclose(traced.program.module()(x_BTNS), module(x_BTNS), atol=1e-6)


class LooksAtNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if bool((x > 0).any()) else x - 1


def test_a_model_that_looks_at_numbers_cannot_be_exported_and_the_error_says_why() -> None:
    with pytest.raises(ConfigError, match=r"^full: this model cannot be exported: Could not guard on data-dependent"):
        trace(part_of(LooksAtNumbers()))
