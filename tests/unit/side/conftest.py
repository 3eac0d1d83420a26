"""Stand-ins for a frozen backbone: the side network asks only for tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    tokens_BTAD: Tensor
    num_prefix: int
    has_class_token: bool
    grid_YX: tuple[int, int]


B, T, Y, X, D, PATCH = 2, 5, 3, 4, 24, 6


@pytest.fixture
def make_inputs() -> Callable[..., tuple[Tensor, list[Tokens]]]:
    def make(
        num_layers: int, *, num_prefix: int = 1, has_class_token: bool = True, num_frames: int = T, grid=(Y, X), batch=B
    ) -> tuple[Tensor, list[Tokens]]:
        generator = torch.Generator().manual_seed(3)
        clip_BTCHW = torch.randn(batch, num_frames, 3, grid[0] * PATCH, grid[1] * PATCH, generator=generator)
        num_tokens = num_prefix + grid[0] * grid[1]
        layers = [
            Tokens(
                torch.randn(batch, num_frames, num_tokens, D, generator=generator), num_prefix, has_class_token, grid
            )
            for _ in range(num_layers)
        ]
        return clip_BTCHW, layers

    return make
