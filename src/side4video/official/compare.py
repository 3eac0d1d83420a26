"""The frozen part of a checkpoint against a backbone that is had by name: the same weights, or which differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.released import AFTER_BLOCKS, inner_tower
from side4video.errors import CheckpointError
from side4video.official.contents import Contents

_SHOWN = 3


@dataclass(frozen=True)
class Comparison:
    """How many tensors are equal bit for bit, and how many once one of the two is rounded to half precision."""

    equal: int
    rounded: int

    @property
    def compared(self) -> int:
        """All of them."""
        return self.equal + self.rounded


def compare_backbone(found: Contents, backbone: FrozenBackbone) -> Comparison:
    """Compare value by value. The backbone must hold float32 weights.

    Raises:
        CheckpointError: keys that only one of them has, other shapes, or other values; the first few are named.
    """
    tower = inner_tower(backbone.trunk)  # pyright: ignore[reportArgumentType] - a trunk is a module
    theirs, own = found.frozen, tower.state_dict()
    name, dialect = backbone.name, found.layout.dialect
    missing, unknown = sorted(own.keys() - theirs.keys() - AFTER_BLOCKS[dialect]), sorted(theirs.keys() - own.keys())
    if missing or unknown:
        raise CheckpointError(
            f"the checkpoint's frozen tower is not {name}: {len(missing)} keys missing {missing[:_SHOWN]}, "
            f"{len(unknown)} unknown {unknown[:_SHOWN]}"
        )
    rounded, differing = 0, list[str]()
    for key in sorted(theirs):
        verdict = _verdict(theirs[key], own[key])
        rounded += verdict == "rounded"
        if verdict not in ("equal", "rounded"):
            differing.append(f"{key} {verdict}")
    if differing:
        raise CheckpointError(
            f"the checkpoint was trained beside another backbone than {name}: {len(differing)} of {len(theirs)} "
            f"tensors differ, such as {'; '.join(differing[:_SHOWN])}"
        )
    return Comparison(len(theirs) - rounded, rounded)


def compare_text(found: Contents, text: Mapping[str, Tensor], *, name: str) -> None:
    """Whether the text tower of `name` has the checkpoint's shapes; its weights are trained ones.

    Raises:
        CheckpointError: keys that only one of them has, or other shapes.
    """
    differing = sorted(found.text.keys() ^ text.keys())
    differing += [key for key in found.text.keys() & text.keys() if found.text[key].shape != text[key].shape]
    if differing:
        raise CheckpointError(f"the checkpoint's text tower is not that of {name}: {', '.join(differing[:_SHOWN])}")


def _verdict(theirs: Tensor, own: Tensor) -> str:
    if theirs.shape != own.shape:
        return f"is {tuple(theirs.shape)}, not {tuple(own.shape)}"
    own = own.detach().to(theirs.device, theirs.dtype)
    if torch.equal(theirs, own):
        return "equal"
    if theirs.is_floating_point() and (
        torch.equal(theirs, own.half().to(theirs.dtype)) or torch.equal(own, theirs.half().to(own.dtype))
    ):
        return "rounded"
    return f"by up to {float((theirs - own).abs().max()):.2g}"
