"""Which precision the frozen weights are kept in."""

from __future__ import annotations

import torch
from torch import nn

from side4video.backbones.mapped import FileMemory, fits_exactly
from side4video.errors import BackboneError

NAMED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(choice: str, weights: nn.Module, device: torch.device) -> torch.dtype:
    """`auto` is the checkpoint's own on a GPU; on a CPU bf16 where it has units for it (bits are dropped), else fp32.

    Raises:
        BackboneError: for an unknown name.
    """
    if choice in NAMED:
        return NAMED[choice]
    if choice != "auto":
        raise BackboneError(f"precision: got {choice!r}, allowed are auto, {', '.join(NAMED)}")
    if device.type != "cpu":
        return checkpoint_precision(weights)
    return torch.bfloat16 if cpu_has_bf16() else torch.float32


def checkpoint_precision(weights: nn.Module) -> torch.dtype:
    """The smallest type that holds every matrix exactly: libraries load half-precision checkpoints as float32.

    Norms and biases do not count; CLIP keeps them in float32 beside fp16 matrices. What came in bf16 mostly fits into
    fp16 too, but not the other way round, so bf16 is asked first.
    """
    matrices = [p.detach() for p in weights.parameters() if p.ndim >= 2 and p.is_floating_point()]
    files = FileMemory()
    for precision in (torch.bfloat16, torch.float16):
        if matrices and all(fits_exactly(p, precision, files) for p in matrices):
            return precision
    return torch.float32


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware."""
    # the oldest torch releases that we take may not tell; they get float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
