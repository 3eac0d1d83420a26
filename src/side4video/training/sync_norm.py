"""Batch norm over all processes: torch's own on GPUs, and one for CPUs, where torch has none."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


@contextmanager
def synced_batch_norms(module: nn.Module, *, native: bool) -> Generator[None]:
    """Inside, every batch norm of `module` takes its statistics over all processes; afterwards the old ones are back.

    The stand-ins share parameters and buffers with the norms they replace, so nothing is lost and no name changes.
    `native` chooses torch's `SyncBatchNorm`, which needs a GPU.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                stand_in = nn.SyncBatchNorm.convert_sync_batchnorm(child) if native else _synced(child)
                replaced.append((parent, name, child))
                setattr(parent, name, stand_in)
    try:
        yield
    finally:
        for parent, name, child in replaced:
            child.train(parent.training)
            setattr(parent, name, child)


class SyncedBatchNorm(nn.BatchNorm1d):
    """Batch norm of the rows of a matrix that is spread over processes: `x_RS`, R rows here and others elsewhere.

    Shapes: R, rows (clips x frames x tokens).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Rows normalised with the statistics of all processes' rows; with the running ones in eval mode."""
        if not self.training:
            return super().forward(input)
        x_RS = input.float()
        count = x_RS.new_tensor([float(x_RS.shape[0])])
        # two passes, as one process does it: the mean first, then the squares around it
        sums = _all_reduce(torch.cat([x_RS.sum(0), count]))
        total = sums[-1].detach()
        mean_S = sums[:-1] / total
        var_S = _all_reduce((x_RS - mean_S).square().sum(0)) / total
        if self.track_running_stats:  # off while a recomputed block runs for the second time
            self._update_running(mean_S.detach(), var_S.detach(), total)
        normed_RS = (x_RS - mean_S) * torch.rsqrt(var_S + self.eps)
        return (normed_RS * self.weight + self.bias).to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean_S: Tensor, var_S: Tensor, total: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_S, self.momentum)
        self.running_var.lerp_(var_S * total / (total - 1), self.momentum)


class _AllReduce(torch.autograd.Function):
    """Sum over processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _all_reduce(value: Tensor) -> Tensor:
    return _AllReduce.apply(value)  # pyright: ignore[reportReturnType]


def _synced(norm: _BatchNorm) -> SyncedBatchNorm:
    synced = SyncedBatchNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    synced.weight, synced.bias = norm.weight, norm.bias
    synced.running_mean, synced.running_var = norm.running_mean, norm.running_var
    synced.num_batches_tracked = norm.num_batches_tracked
    return synced.train(norm.training)
