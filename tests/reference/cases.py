"""Reads one case of the reference values and measures how far a tensor is from it.

A case holds the released model's weights (two or more dimensions as float16, to be cast up), its inputs, the features
inside it, its outputs and, in train mode, its gradients and buffers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

OUTPUT_TOLERANCE = 1e-5
LOSS_TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 3e-4
ZERO_GRADIENT_TOLERANCE = 1e-5
BUFFER_TOLERANCE = 2e-6


@dataclass(frozen=True)
class Case:
    """`io` has `input.*`, `inter.*`, `output.*` and in train mode `loss`, `grad.*`, `after.*`."""

    record: dict[str, Any]
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    @property
    def clip_BTCHW(self) -> Tensor:
        return self.io["input.frames"].float()

    @property
    def hparams(self) -> dict[str, Any]:
        return self.record["hparams"]


def load_case(folder: Path) -> Case:
    weights = {
        name: w.float() if w.is_floating_point() else w for name, w in load_file(folder / "weights.safetensors").items()
    }
    return Case(json.loads((folder / "case.json").read_text()), weights, load_file(folder / "io.safetensors"))


def relative_error(value: Tensor, reference: Tensor) -> float:
    """max|a - ref| / max|ref| over one tensor, in float64."""
    assert value.shape == reference.shape, f"{tuple(value.shape)} is not {tuple(reference.shape)}"
    value, reference = value.detach().double(), reference.double()
    assert torch.isfinite(value).all()
    return float((value - reference).abs().max() / reference.abs().max())
