"""Real training steps of a peer or of ours with random weights: seconds, and on a GPU the most memory at once."""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from peers.simulate import step_loss

WEIGHT_STD = 0.02


@dataclass(frozen=True)
class Measured:
    """Seconds of each step; bytes of tensors at the peak, which only a GPU counts."""

    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Of the steps' seconds."""
        return statistics.median(self.seconds)


def materialise(model: nn.Module, device: torch.device, *, seed: int = 0) -> nn.Module:
    """A model on the meta device, moved to a real one with random weights, without a copy of it anywhere else."""
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=WEIGHT_STD, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        for buffer in model.buffers():
            buffer.zero_()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
    return model


def measure(
    model: nn.Module,
    *,
    batch_size: int,
    num_frames: int,
    image_size: tuple[int, int],
    parts: int = 1,
    offload: bool = False,
    steps: int = 3,
    warm_up: int = 1,
) -> Measured:
    """Forward, backward, AdamW: steps of `batch_size` clips, in `parts` whose gradients add up.

    With `offload`, what is kept for the backward pass waits in host memory; torch's own way, which does not overlap.
    Linear maps are bfloat16 on a GPU; elsewhere everything has the weights' precision.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = trained[0].device
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=on_gpu)
    generator = torch.Generator(device).manual_seed(1)
    clip_BTCHW = torch.randn(batch_size, num_frames, 3, *image_size, device=device, generator=generator)
    labels_B = torch.zeros(batch_size, dtype=torch.int64, device=device)
    model.train()
    seconds: list[float] = []
    for number in range(warm_up + steps):
        if on_gpu and number == warm_up:
            torch.cuda.reset_peak_memory_stats(device)
        begin = time.perf_counter()
        for part_BTCHW, part_B in zip(clip_BTCHW.chunk(parts), labels_B.chunk(parts), strict=True):
            with torch.autograd.graph.save_on_cpu(pin_memory=on_gpu) if offload else nullcontext():
                loss = step_loss(model, part_BTCHW, part_B, half=on_gpu) / parts
            loss.backward()
            del loss
        optimizer.step()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize(device)
        if number >= warm_up:
            seconds.append(time.perf_counter() - begin)
    return Measured(tuple(seconds), torch.cuda.max_memory_allocated(device) if on_gpu else None)
