"""Memory and arithmetic of a training step of any classifier, on tensors that have sizes but no numbers.

As `side4video.memory.estimate` does for our own models, and with the same book-keeping: what PyTorch allocates for
tensors; AdamW with two values a trained weight; bfloat16 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from side4video.backbones.timm_vit import TimmViT
from side4video.memory.track import Operation, StorageTracker
from side4video.side.norms import simulated_gpu

CAUSES = ("frozen weights", "trained weights", "gradients", "optimiser", "pixels", "saved", "working")
# even, so that a tap after every second block finds the last one
FEW_BLOCKS = (2, 4, 6)


@dataclass(frozen=True)
class Figures:
    """Bytes at the peak (also split by cause), bytes left for the backward pass on the device and elsewhere, FLOPs (a
    multiply-add counts two)."""

    peak_bytes: int
    by_cause: dict[str, int]
    saved_bytes: int
    host_bytes: int
    flops_forward: int
    flops_step: int
    trainable_parameters: int


def simulate(
    model: nn.Module,
    *,
    batch_size: int,
    num_frames: int,
    image_size: tuple[int, int],
    parts: int = 1,
    offload: bool = False,
) -> Figures:
    """A training step of a model on the meta device; `parts` batches of this size add up their gradients.

    FLOPs are those of one part. With `offload`, what is kept for the backward pass waits in another memory.
    """
    tracker = StorageTracker()
    with FakeTensorMode(allow_non_fake_inputs=True), simulated_gpu():
        give_sizes(model.train())
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        clip_BTCHW = torch.empty(batch_size, num_frames, 3, *image_size)
        labels_B = torch.zeros(batch_size, dtype=torch.int64)

        given = {_storage(tensor) for tensor in (*trained, *frozen, *model.buffers(), clip_BTCHW, labels_B)}
        away: list[int] = []

        def pack(tensor: Tensor) -> Tensor | tuple[Any, ...]:
            if offload and _storage(tensor) not in given:
                away.append(tensor.untyped_storage().nbytes())
                return tensor.shape, tensor.stride(), tensor.dtype
            tracker.rename(tensor, {"": "saved"})
            return tensor

        def unpack(kept: Tensor | tuple[Any, ...]) -> Tensor:
            return kept if isinstance(kept, Tensor) else torch.empty_strided(kept[0], kept[1], dtype=kept[2])

        with tracker:
            tracker.adopt([*frozen, *model.buffers()], "frozen weights")
            tracker.adopt(trained, "trained weights")
            tracker.adopt([clip_BTCHW, labels_B], "pixels")
            moments = [torch.empty_like(p) for p in trained for _ in range(2)]
            tracker.adopt(moments, "optimiser")
            start = forward = end = tracker.now
            for _ in range(parts):
                start = tracker.now
                with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                    loss = step_loss(model, clip_BTCHW, labels_B)
                forward = tracker.now
                loss.backward()
                tracker.adopt((p.grad for p in trained if p.grad is not None), "gradients")
                del loss
            end = tracker.now
            del moments
        peak_bytes, moment = tracker.peak()
    found = tracker.by_cause(moment)
    return Figures(
        peak_bytes=peak_bytes,
        by_cause={cause: found.get(cause, 0) for cause in CAUSES},
        saved_bytes=tracker.by_cause(forward).get("saved", 0),
        host_bytes=sum(away),
        flops_forward=_flops(tracker.operations[start:forward]),
        flops_step=_flops(tracker.operations[start:end]),
        trainable_parameters=sum(parameter.numel() for parameter in trained),
    )


def simulate_deep(build: Callable[[int], nn.Module], depth: int, **shape: Any) -> tuple[Figures, tuple[int, ...]]:
    """`simulate` of a model of many equal blocks, from models of few: every figure is a straight line in their number.

    `build` makes a model of so many blocks. Where three points are not on a line, the whole model is run. Also gives
    the numbers of blocks that were run.
    """
    few = [simulate(build(number), **shape) for number in FEW_BLOCKS]
    first, second, third = (_numbers(figures) for figures in few)
    straight = all(third[name] - second[name] == second[name] - first[name] for name in first)
    if not straight:
        return simulate(build(depth), **shape), (depth,)
    steps = (depth - FEW_BLOCKS[0]) // (FEW_BLOCKS[1] - FEW_BLOCKS[0])
    found = {name: first[name] + steps * (second[name] - first[name]) for name in first}
    causes = {cause: found.pop(cause) for cause in CAUSES}
    return Figures(by_cause=causes, **found), FEW_BLOCKS


def _numbers(figures: Figures) -> dict[str, int]:
    """All figures by name."""
    return {**{name: value for name, value in vars(figures).items() if name != "by_cause"}, **figures.by_cause}


def frozen_flops(trunk: TimmViT, *, num_images: int, image_size: tuple[int, int], num_blocks: int | None = None) -> int:
    """FLOPs of one frozen forward pass of a trunk on the meta device: the unit that steps are measured in."""
    tracker = StorageTracker()
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_sizes(trunk)
        images_ICHW = torch.empty(num_images, 3, *image_size)
        with tracker, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            tokens_IAD, context = trunk.embed(images_ICHW)
            for index in range(num_blocks or trunk.depth):
                tokens_IAD = trunk.run_block(index, tokens_IAD, context)
    return _flops(tracker.operations)


def step_loss(model: nn.Module, clip_BTCHW: Tensor, labels_B: Tensor, *, half: bool = True) -> Tensor:
    """The loss of a training step; `half`: linear maps in bfloat16."""
    with torch.autocast(clip_BTCHW.device.type, dtype=torch.bfloat16, enabled=half):
        logits_BK = model(clip_BTCHW)
    return cross_entropy(logits_BK.float(), labels_B, label_smoothing=0.1)


def give_sizes(model: nn.Module) -> None:
    """Put a fake tensor, which knows its storage, in the place of each weight on the meta device."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _storage(tensor: Tensor) -> int:
    """A storage's number while it lives."""
    return tensor.untyped_storage()._cdata


def _flops(operations: Sequence[Operation]) -> int:
    return sum(operation.flops for operation in operations)
