"""RandAugment for clips: a setting such as `m7-n4-mstd0.5-inc1`, carried out by torchvision on all frames alike.

The string is timm's: `m` magnitude 0 to 10, `n` operations a clip, `mstd` standard deviation of a magnitude drawn anew
for each operation (then cut to 0..10), `p` probability of each operation (0.5 as in timm), `inc1` operations that grow
stronger with the magnitude. What it means in torchvision's terms:

- Magnitude m of 10 is place `10 * m` of 101 in torchvision's ranges. These are timm's `inc1` ranges: rotation to 30
  degrees, shear to 0.3, shift to 0.45 of the side, brightness, colour, contrast and sharpness to a factor of 1 +- 0.9,
  solarising from 255 down to 0. Posterising keeps 8 to 4 bits (timm's `inc1`: 4 to 0).
- `inc0` is refused, since torchvision has no such ranges; leaving `inc` out means `inc1`.
- The operations are torchvision's 14: timm's, with doing nothing in place of inverting and of adding to dark pixels.

Source: RandAugment, arXiv:1909.13719.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms import v2

from side4video.errors import ConfigError

MAX_MAGNITUDE = 10
STEPS_PER_MAGNITUDE = 10
_PART = re.compile(r"(mstd|m|n|p|inc)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RandAugmentPolicy:
    """A parsed setting: `num_ops` operations of strength `magnitude` (0..10) +- `magnitude_std`."""

    magnitude: float
    num_ops: int
    magnitude_std: float = 0.0
    probability: float = 0.5

    @classmethod
    def parse(cls, text: str) -> RandAugmentPolicy:
        """Read a setting such as `m7-n4-mstd0.5-inc1`; a leading `rand-` is allowed.

        Raises: ConfigError when a part is unknown, repeated, missing or out of range.
        """
        parts: dict[str, float] = {}
        for part in text.strip().removeprefix("rand-").split("-"):
            match = _PART.fullmatch(part)
            if match is None or match[1] in parts:
                why = "appears twice" if match else "is not one of m, n, mstd, p, inc followed by a number"
                raise ConfigError(f"rand_augment={text!r}: {part!r} {why}; an allowed value is 'm7-n4-mstd0.5-inc1'")
            parts[match[1]] = float(match[2])
        bounds = {"m": (0, MAX_MAGNITUDE), "n": (1, 20), "mstd": (0, MAX_MAGNITUDE), "p": (0, 1), "inc": (1, 1)}
        for name, value in parts.items():
            low, high = bounds[name]
            if not low <= value <= high or (name in ("n", "inc") and value != int(value)):
                allowed = "1 (stronger with the magnitude)" if name == "inc" else f"between {low} and {high}"
                raise ConfigError(f"rand_augment={text!r}: {name} must be {allowed}; got {value:g}")
        for name in ("m", "n"):
            if name not in parts:
                raise ConfigError(f"rand_augment={text!r}: {name} is missing; an allowed value is 'm7-n4-mstd0.5-inc1'")
        return cls(parts["m"], int(parts["n"]), parts.get("mstd", 0.0), parts.get("p", 0.5))


def rand_augment(frames_TCHW: Tensor, policy: RandAugmentPolicy, fill: tuple[int, int, int]) -> Tensor:
    """Apply the policy to a uint8 clip, every operation with one set of parameters for all frames.

    Draws from torch's global CPU generator: call it inside `transforms.seeded_by`. Corners that turn empty are `fill`.
    """
    for _ in range(policy.num_ops):
        if float(torch.rand(())) >= policy.probability:
            continue
        magnitude = policy.magnitude
        if policy.magnitude_std:
            magnitude += policy.magnitude_std * float(torch.randn(()))
        place = round(STEPS_PER_MAGNITUDE * min(max(magnitude, 0.0), float(MAX_MAGNITUDE)))
        frames_TCHW = _one_operation(place, fill)(frames_TCHW)
    return frames_TCHW


@lru_cache(maxsize=256)
def _one_operation(place: int, fill: tuple[int, int, int]) -> v2.RandAugment:
    return v2.RandAugment(
        num_ops=1,
        magnitude=place,
        num_magnitude_bins=MAX_MAGNITUDE * STEPS_PER_MAGNITUDE + 1,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=list(fill),
    )
