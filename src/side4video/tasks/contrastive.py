"""Contrastive training of captions and videos: the symmetric loss, gathered over processes, and in chunks.

**Over processes.** Every process embeds its part of the batch, all parts are gathered, and each process computes the
loss of the whole batch. What wraps the model then averages gradients over processes. `gather_with_gradient` sums the
gradient of every slice over the processes that used it, so that this average is the gradient of one process with the
whole batch. The released code keeps the own slice's gradient only, which makes the gradient of everything below the
embeddings 1/processes as large (`gradient="released"`).

**In chunks.** `chunked_contrastive_backward` embeds the batch chunk by chunk without a graph, takes the loss and its
gradient with respect to the embeddings, then embeds each chunk again with a graph and sends that gradient through it.
At any time the activations of one chunk exist. The gradient is exact as long as a clip is embedded the same both times.
What that means for the batch norms of the side network:

- in eval mode, or with `norm="layer"`, clips do not see each other: the gradient is that of one pass over the batch;
- in train mode with `norm="batch"`, statistics are those of a chunk, the same both times, and running statistics move
  once per chunk. The gradient is exact for the model whose batch norm sees chunks, as it sees one process's clips when
  several processes train. It is *not* the gradient with batch norm over the whole batch.

With a frozen backbone nothing else ties clips together, over processes or in chunks.

Source: Side4Video, arXiv:2311.15769, released code (loss and gathering); Scaling Deep Contrastive Learning Batch Size
under Memory Limited Setup, arXiv:2101.06983 (cached embeddings). We differ from the released code in the default
gradient of the gathering, as said above.
Shapes: B, pairs of this process; M = V, pairs of all processes: caption i belongs to video i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from side4video.batch import StoredTokens
from side4video.side.recompute import untracked_statistics
from side4video.tasks.retrieval import VideoTextModel

GatherGradient = Literal["exact", "released"]
BUCKET_ELEMENTS = 2**24


def symmetric_loss(sim_MV: Tensor) -> Tensor:
    """Mean of the cross entropies over rows and over columns, in float32; caption i belongs to video i.

    Raises:
        ValueError: a matrix that is not square, or empty.
    """
    if sim_MV.dim() != 2 or sim_MV.shape[0] != sim_MV.shape[1] or not len(sim_MV):
        raise ValueError(f"the contrastive loss needs as many captions as videos; got {tuple(sim_MV.shape)}")
    target_M = torch.arange(len(sim_MV), device=sim_MV.device)
    return (F.cross_entropy(sim_MV.float(), target_M) + F.cross_entropy(sim_MV.float().T, target_M)) / 2


def contrastive_loss(
    model: VideoTextModel,
    frames_BTE: Tensor,
    tokens_BQE: Tensor,
    mask_BQ: Tensor,
    mask_BT: Tensor | None = None,
    *,
    gradient: GatherGradient = "exact",
) -> Tensor:
    """The symmetric loss of the pairs of all processes, the same number in each.

    Embeddings are those of `model(clip_BTCHW, ids_BQ)`; without `mask_BT` every frame is real. `gradient` says what
    flows back through the gathering (see the module's text). With one process nothing is gathered.

    Raises:
        ValueError: shapes that do not belong together, in this process or between processes.
    """
    if mask_BT is None:
        mask_BT = torch.ones(frames_BTE.shape[:2], dtype=torch.bool, device=frames_BTE.device)
    frames_VTE, tokens_MQE = gather_with_gradient(frames_BTE, tokens_BQE, gradient=gradient)
    mask_VT, mask_MQ = (gather_with_gradient(mask.to(torch.uint8))[0] for mask in (mask_BT, mask_BQ))
    return symmetric_loss(model.training_similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT))


def chunked_contrastive_backward(
    model: VideoTextModel,
    clip_BTCHW: Tensor,
    ids_BQ: Tensor,
    mask_BQ: Tensor,
    mask_BT: Tensor | None = None,
    *,
    chunk_size: int,
    stored: StoredTokens | None = None,
    gradient: GatherGradient = "exact",
    backward: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """Adds the gradient of the contrastive loss to `.grad`, `chunk_size` clips at a time, and returns the loss.

    The module's text says what is exact. `backward` runs the backward pass of the loss itself, such as one that scales
    it for fp16; the scale carries over to the chunks. With several processes `model` must be the plain module: call
    `average_gradients` afterwards. Every process must then have the same number of chunks if it uses synchronised
    batch norm. With `stored` tokens no frozen block runs.

    Raises:
        ValueError: a chunk size below 1, or shapes that do not belong together.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 clip; got {chunk_size}")
    starts = range(0, len(clip_BTCHW), chunk_size)
    kept = [None if stored is None else stored.rows(slice(start, start + chunk_size)) for start in starts]
    chunks = list(zip(clip_BTCHW.split(chunk_size), ids_BQ.split(chunk_size), kept, strict=True))
    with torch.no_grad(), untracked_statistics([model]):
        embedded = [model(*chunk) for chunk in chunks]
    frames_BTE = torch.cat([frames for frames, _ in embedded]).requires_grad_()
    tokens_BQE = torch.cat([tokens for _, tokens in embedded]).requires_grad_(model.train_text)
    del embedded
    loss = contrastive_loss(model, frames_BTE, tokens_BQE, mask_BQ, mask_BT, gradient=gradient)
    (backward or torch.autograd.backward)(loss)
    assert frames_BTE.grad is not None
    frame_grads = frames_BTE.grad.split(chunk_size)
    token_grads = tokens_BQE.grad.split(chunk_size) if tokens_BQE.grad is not None else [None] * len(chunks)
    for chunk, frame_grad, token_grad in zip(chunks, frame_grads, token_grads, strict=True):
        frames, tokens = model(*chunk)
        torch.autograd.backward([frames], [frame_grad])
        if token_grad is not None:
            torch.autograd.backward([tokens], [token_grad])
    return loss.detach()


def gather_with_gradient(*parts: Tensor, gradient: GatherGradient = "exact") -> tuple[Tensor, ...]:
    """Each tensor's rows of all processes, in order of rank; processes may have different numbers of rows.

    `exact`: the gradient of a row is the sum over all processes. `released`: only this process's own. Integers are
    gathered without gradient. Without several processes, the tensors themselves.

    Raises:
        ValueError: an unknown `gradient`, or rows whose shape differs between processes.
    """
    if gradient not in ("exact", "released"):
        raise ValueError(f"gradient must be exact or released; got {gradient!r}")
    if not _several_processes():
        return parts
    return cast("tuple[Tensor, ...]", _Gather.apply(gradient, *parts))


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean over processes of every `.grad` (0 where a process has none), for models that nothing wraps.

    Every process must give the same parameters in the same order. Without several processes nothing happens.
    """
    if not _several_processes():
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if bucket and (
            sum(grad.numel() for grad in bucket) + parameter.numel() > BUCKET_ELEMENTS
            or bucket[0].dtype != parameter.grad.dtype
        ):
            _average(bucket)
            bucket = []
        bucket.append(parameter.grad)
    _average(bucket)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: GatherGradient, *parts: Tensor) -> tuple[Tensor, ...]:
        gathered = [_all_rows(part.detach()) for part in parts]
        ctx.gradient = gradient
        ctx.rows = [rows for _, rows in gathered]
        ctx.mark_non_differentiable(*(whole for whole, _ in gathered if not whole.is_floating_point()))
        return tuple(whole for whole, _ in gathered)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        own: list[Tensor | None] = []
        for grad, (start, end), needed in zip(grads, ctx.rows, ctx.needs_input_grad[1:], strict=True):
            # every process must take part, also one that needs no gradient itself
            whole = grad.contiguous()
            if ctx.gradient == "exact" and whole.is_floating_point():
                whole = whole.clone()
                dist.all_reduce(whole)
            own.append(whole[start:end] if needed else None)
        return None, *own


def _all_rows(part: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """All processes' rows, and where this process's are among them."""
    world, rank = dist.get_world_size(), dist.get_rank()
    shape = torch.tensor(part.shape, device=part.device)
    shapes = [torch.empty_like(shape) for _ in range(world)]
    dist.all_gather(shapes, shape)
    counts = [int(other[0]) for other in shapes]
    if any(other[1:].tolist() != list(part.shape[1:]) for other in shapes):
        raise ValueError(f"processes must gather rows of one shape; got {[other[1:].tolist() for other in shapes]}")
    # collectives want equal sizes: fill up with rows that are cut off again
    padded = part.new_zeros(max(counts), *part.shape[1:])
    padded[: len(part)] = part
    received = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(received, padded)
    start = sum(counts[:rank])
    whole = torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])
    return whole, (start, start + counts[rank])


def _average(grads: list[Tensor]) -> None:
    if not grads:
        return
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
