"""What a side network looks like: a frozen record of every variant, and the dialects of the released code.

A dialect is nothing but a set of defaults:

| | clip | eva |
|---|---|---|
| side blocks after | every frozen block | every second frozen block (1, 3, 5, ...) |
| norms in a side block | before each part | after each part |
| layer norm of a projection | before the linear map (width D) | after it (width S) |
| norm after the last side block | yes | no |
| position table at the start | normal, std 0.01 | normal, std 0.02 |

The retrieval dialects add a position for the class token (clip) and a final norm (eva).

Source: Side4Video, arXiv:2311.15769, "Side4Video", and the released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from side4video.errors import ConfigError

Dialect = Literal["clip", "eva"]
Taps = str | Sequence[int]


@dataclass(frozen=True)
class SideSpec:
    """Settings of a side network; every combination is allowed. The meaning of each is in `config/groups.py`.

    Raises:
        ConfigError: a value outside what is allowed, or heads that do not divide the width.
    """

    width: int = 320
    num_heads: int | None = None
    taps: Taps = "all"
    temporal: Literal["conv", "attention", "none"] = "conv"
    temporal_kernel: int = 3
    shift: bool = True
    representation: Literal["gap", "class", "extra"] = "gap"
    stem: bool = True
    norm_order: Literal["pre", "post"] = "pre"
    projection_norm: Literal["input", "output"] = "input"
    norm: Literal["batch", "layer"] = "batch"
    position_on_class: bool = False
    final_norm: bool = True
    init: Literal["clip", "eva", "clip_retrieval", "identity"] = "clip"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"side width must be at least 1; got {self.width}")
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"side num_heads must divide width {self.width}; got {self.heads} (default: width // 64)")
        if self.temporal_kernel < 1 or self.temporal_kernel % 2 == 0:
            raise ConfigError(f"side temporal_kernel must be odd; got {self.temporal_kernel}")
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"side {name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")

    @property
    def heads(self) -> int:
        """Attention heads: as set, or `width // 64` and at least one."""
        return max(1, self.width // 64) if self.num_heads is None else self.num_heads

    @classmethod
    def for_dialect(cls, dialect: Dialect, *, retrieval: bool = False) -> SideSpec:
        """The settings of one released variant; change single fields with `dataclasses.replace`."""
        if dialect == "clip":
            spec = cls()
            return replace(spec, position_on_class=True, init="clip_retrieval") if retrieval else spec
        if dialect == "eva":
            return cls(
                width=576,
                taps="every_second",
                norm_order="post",
                projection_norm="output",
                final_norm=retrieval,
                init="eva",
            )
        raise ConfigError(f"side dialect must be clip or eva; got {dialect!r}")


_ALLOWED: dict[str, tuple[str, ...]] = {
    "temporal": ("conv", "attention", "none"),
    "representation": ("gap", "class", "extra"),
    "norm_order": ("pre", "post"),
    "projection_norm": ("input", "output"),
    "norm": ("batch", "layer"),
    "init": ("clip", "eva", "clip_retrieval", "identity"),
}


def resolve_taps(taps: Taps, depth: int) -> tuple[int, ...]:
    """0-based indices of the tapped frozen blocks, ascending.

    `taps` is `all`, `every_second` (1, 3, 5, ...), `top:N` (the last N), or the indices themselves; a negative index
    counts from the end.

    Raises:
        ConfigError: an unknown word, an index outside the backbone, a repeated one, or no tap at all.
    """
    if isinstance(taps, str):
        return _named_taps(taps, depth)
    resolved = sorted(index + depth if index < 0 else index for index in taps)
    if not resolved:
        raise ConfigError("side taps must name at least one frozen block; got an empty list")
    outside = [index for index in taps if not -depth <= index < depth]
    if outside:
        raise ConfigError(f"side taps must lie in 0..{depth - 1} for a backbone of {depth} blocks; got {outside}")
    if len(set(resolved)) != len(resolved):
        raise ConfigError(f"side taps must not repeat; got {list(taps)}")
    return tuple(resolved)


def _named_taps(taps: str, depth: int) -> tuple[int, ...]:
    if taps == "all":
        return tuple(range(depth))
    if taps == "every_second":
        # a backbone of one block still has one tap
        return tuple(range(1, depth, 2)) or (0,)
    word, _, count = taps.partition(":")
    if word == "top" and count.isdecimal():
        if not 1 <= int(count) <= depth:
            raise ConfigError(f"side taps top:N must have N in 1..{depth} for this backbone; got {taps!r}")
        return tuple(range(depth - int(count), depth))
    raise ConfigError(f"side taps must be all, every_second, top:N or a list of block indices; got {taps!r}")
