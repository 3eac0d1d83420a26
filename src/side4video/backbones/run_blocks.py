"""Runs a frozen trunk's blocks one after the other, each over a few frames at a time if so wished.

Nothing here keeps a layer: the next block begins when the caller comes back for it.

Shapes: A, all tokens of a frame, prefix tokens first, patches row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from side4video.backbones.block_weights import RestingWeights
from side4video.backbones.freezing import frozen_arithmetic
from side4video.backbones.trunk import ImageTrunk
from side4video.slices import alike, pieces


def run_blocks(
    trunk: ImageTrunk,
    images_ICHW: Tensor,
    *,
    precision: torch.dtype,
    weights: RestingWeights | None,
    last: int,
    frame_slice: int | None,
    wanted: Collection[int],
) -> Iterator[tuple[int, Tensor]]:
    """Index and output, shape IAD, of the blocks up to `last`; `weights` is where they rest, when that is elsewhere.

    Outputs of the blocks in `wanted` are never changed afterwards, others may be.
    """
    # gradient mode is entered per block: across a yield it would leak into the caller
    step = frame_slice or None
    with frozen_arithmetic(images_ICHW):
        tokens_IAD, context = _embed(trunk, images_ICHW, precision, step)
    del images_ICHW
    with ExitStack() as stack:
        visits = None if weights is None else stack.enter_context(weights.visits(range(last + 1)))
        for index in range(last + 1):
            with frozen_arithmetic(tokens_IAD), nullcontext() if visits is None else visits.of(index):
                tokens_IAD = _run_block(trunk, index, tokens_IAD, context, step=step, ours=index - 1 not in wanted)
            yield index, tokens_IAD


def block_of(trunk: ImageTrunk, index: int) -> nn.Module | None:
    """A block as a module, where the trunk has them as modules."""
    block: Callable[[int], nn.Module] | None = getattr(trunk, "block", None)
    return None if block is None else block(index)


def blocks_of(trunk: ImageTrunk) -> list[nn.Module]:
    """All blocks, where the trunk has them as modules; else none."""
    found = [block_of(trunk, index) for index in range(trunk.depth)]
    return [block for block in found if block is not None]


def _embed(trunk: ImageTrunk, images_ICHW: Tensor, precision: torch.dtype, step: int | None) -> tuple[Tensor, Any]:
    if step is None:  # apart from the pieces: an exported program would take the number of images for a constant
        return trunk.embed(images_ICHW.to(precision))
    tokens_IAD: Tensor | None = None
    context: Any = None
    for piece in pieces(images_ICHW.shape[0], step):
        part_IAD, context = trunk.embed(images_ICHW[piece].to(precision))
        if tokens_IAD is None:
            if part_IAD.shape[0] == images_ICHW.shape[0]:
                return part_IAD, context
            tokens_IAD = part_IAD.new_empty(images_ICHW.shape[0], *part_IAD.shape[1:])
        tokens_IAD[piece] = part_IAD
    assert tokens_IAD is not None
    return tokens_IAD, context


def _run_block(
    trunk: ImageTrunk, index: int, tokens_IAD: Tensor, context: Any, *, step: int | None, ours: bool
) -> Tensor:
    def run(tokens_IAD: Tensor) -> Tensor:
        key = lambda: (tokens_IAD.shape, tokens_IAD.dtype, _kind(trunk, index))  # noqa: E731
        return alike(key, lambda: trunk.run_block(index, tokens_IAD, context))

    if step is None or step >= tokens_IAD.shape[0]:
        return run(tokens_IAD)
    # written in place: joining the slices afterwards would hold the layer twice. Tokens that nobody was given are
    # ours to write over
    out_IAD = tokens_IAD if ours else torch.empty_like(tokens_IAD)
    for piece in pieces(tokens_IAD.shape[0], step):
        out_IAD[piece] = run(tokens_IAD[piece])
    return out_IAD


def _kind(trunk: ImageTrunk, index: int) -> Any:
    """The same for blocks that are built alike."""
    module = block_of(trunk, index)
    if module is None:
        return index
    return repr(module), tuple((name, p.shape) for name, p in module.named_parameters())
