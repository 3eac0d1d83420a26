"""The norms of the side network, in the precision of the tokens that they are given.

Autocast would run a layer norm in float32 on one kind of device and not on another; here its input decides, everywhere:
sums and squares are float32 inside the kernels, what goes in and comes out has the tokens' type. In float32 nothing
changes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.side.spec import SideSpec

_simulated = False


def make_norm(spec: SideSpec) -> nn.Module:
    """The norm around convolution and feed-forward network: over all tokens of the batch, or within each token."""
    return nn.BatchNorm1d(spec.width) if spec.norm == "batch" else nn.LayerNorm(spec.width)


def apply_norm(norm: nn.Module, x_BTMS: Tensor) -> Tensor:
    """Normalise the channels of tokens: batch norm's statistics run over everything but the channels."""
    if isinstance(norm, nn.LayerNorm):
        return layer_norm(norm, x_BTMS)
    if type(norm) is nn.BatchNorm1d and x_BTMS.dtype == torch.float32 and runs_on_cpu(x_BTMS):
        # torch's CPU kernel for rows of channels sums naively in float32: a fifth of the time of this one, and twenty
        # times the error, which is nothing beside the rounding of 16-bit tokens
        x_ISM = x_BTMS.flatten(0, 1).transpose(1, 2)
        return norm(x_ISM).transpose(1, 2).unflatten(0, x_BTMS.shape[:2])
    return norm(x_BTMS.flatten(0, -2)).view(x_BTMS.shape)


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The layer norm of tokens, in and out in their own type."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    with own_precision(x):
        return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def runs_on_cpu(x: Tensor) -> bool:
    """Whether the CPU's kernels compute on this tensor, and not those of a GPU that it stands for."""
    return x.device.type == "cpu" and not _simulated


def own_precision(like: Tensor) -> AbstractContextManager[object]:
    """Switches autocast off."""
    # meta tensors carry no numbers, and autocast does not know their device
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)


@contextmanager
def simulated_gpu() -> Generator[None]:
    """Inside, tensors of the CPU stand for those of a GPU, and take its kernels: for counting memory and arithmetic.

    torch's fused `nn.MultiheadAttention` is off too: it is one operation, in which nothing can be counted.
    """
    global _simulated  # noqa: PLW0603 - a switch of the process, like torch's own
    fused = torch.backends.mha.get_fastpath_enabled()
    _simulated = True
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        yield
    finally:
        _simulated = False
        torch.backends.mha.set_fastpath_enabled(value=fused)
