"""A trunk small enough to reason about: patches by a convolution, blocks that count their calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from side4video.backbones.trunk import Preprocessing, patch_grid

PATCH = (4, 2)
PREFIX = 2
WIDTH = 6
DEPTH = 5


class Table(nn.Module):
    """Angles that are computed, as rotary positions are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("angles", torch.arange(WIDTH) / 3, persistent=False)


class ToyTrunk(nn.Module):
    """Two prefix tokens, a class token among them when asked for; batch norm and dropout to catch a lost eval mode."""

    width = WIDTH
    depth = DEPTH
    num_prefix = PREFIX
    patch_size = PATCH
    post_norm = False
    preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (12, 14), "bilinear")

    def __init__(self, *, has_class_token: bool = True) -> None:
        super().__init__()
        self.has_class_token = has_class_token
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.prefix = nn.Parameter(torch.randn(PREFIX, WIDTH))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.table = Table()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.calls: list[tuple[int, int]] = []
        self.embedded: list[int] = []
        self.grad_modes: set[bool] = set()

    def embed(self, images_ICHW: Tensor) -> tuple[Tensor, Tensor]:
        self.embedded.append(len(images_ICHW))
        patches_IND = self.patches(images_ICHW).flatten(2).transpose(1, 2)
        prefix_IPD = self.prefix.expand(len(patches_IND), -1, -1)
        return torch.cat([prefix_IPD, patches_IND], dim=1), self.table.angles.cos().to(patches_IND.dtype)

    def run_block(self, index: int, tokens_IAD: Tensor, context: Tensor) -> Tensor:
        self.calls.append((index, len(tokens_IAD)))
        self.grad_modes.add(torch.is_grad_enabled())
        normed_IAD = self.norm(tokens_IAD.transpose(1, 2)).transpose(1, 2)
        return tokens_IAD + self.dropout(self.blocks[index](normed_IAD * context).tanh())

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return patch_grid(image_size, PATCH, native=(12, 14))

    def finish(self, tokens_IAD: Tensor) -> Tensor:
        return tokens_IAD.mean(dim=1)[:, :4]
