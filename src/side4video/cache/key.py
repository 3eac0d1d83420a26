"""What a cache was made for, and how many bytes it takes: both are known before anything is computed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

FORMAT = 1
CachePrecision = Literal["own", "bf16", "int8"]
LastBlock = Literal["none", "class", "all"]


@dataclass(frozen=True)
class CacheKey:
    """Everything that the stored numbers depend on. Two runs may share a cache when their keys are equal, or differ in
    the taps alone, where the cache has more.

    `last` is what is kept of the last block beside the taps: retrieval needs it, mostly its class token only.
    `data` identifies the records, `transform` names every step from decoded frames to pixels, `views` counts the draws
    of frames and augmentation of each record (0: the fixed view of validation), `clips_per_view` the clips of each.
    `seed` is that of the draws, `None` where nothing is drawn. `tokens_precision` is the backbone's own, `quantise` how
    its weights are packed.
    """

    backbone_hash: str
    tokens_precision: str
    quantise: str
    cache_precision: CachePrecision
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    taps: tuple[int, ...]
    last: LastBlock
    depth: int
    data: str
    num_records: int
    num_frames: int
    sampling: str
    transform: str
    views: int
    clips_per_view: int
    seed: int | None
    format: int = FORMAT

    @property
    def num_items(self) -> int:
        """Records times views: what the cache holds, one after the other, all records of a view before the next."""
        return self.num_records * max(1, self.views)

    @property
    def whole_layers(self) -> tuple[int, ...]:
        """Blocks of which all tokens are kept."""
        return self.taps if self.last != "all" else tuple(sorted({*self.taps, self.depth - 1}))

    @property
    def class_layers(self) -> tuple[int, ...]:
        """Blocks of which the class token alone is kept."""
        return (self.depth - 1,) if self.last == "class" and self.depth - 1 not in self.taps else ()

    @property
    def stored_type(self) -> torch.dtype:
        """The type of the stored tokens."""
        named = {"bf16": torch.bfloat16, "int8": torch.int8}
        return named.get(self.cache_precision) or getattr(torch, self.tokens_precision)

    @property
    def is_exact(self) -> bool:
        """Whether the tokens come back as the backbone gave them."""
        return self.stored_type == getattr(torch, self.tokens_precision)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def fits(self, stored: dict[str, Any]) -> list[str]:
        """Clauses that say in what a cache with the key `stored` differs from what is wanted; none when it will do."""
        wanted = self.as_json()
        if self.views == 0:
            # a fixed view is drawn by no seed
            stored = {**stored, "seed": None}
        differing = [
            f"{name} is {_short(stored.get(name))} there and {_short(value)} here"
            for name, value in wanted.items()
            if stored.get(name) != value and name not in ("taps", "last")
        ]
        # read from a file, which may be damaged
        listed = stored.get("taps")
        there_taps = {tap for tap in listed if type(tap) is int} if isinstance(listed, list) else set[int]()
        if not set(self.taps) <= there_taps or not isinstance(listed, list) or len(there_taps) != len(listed):
            differing.append(f"taps are {listed} there and {wanted['taps']} here")
        there = stored.get("last")
        enough = self.last in ("none", there) or there == "all" or self.depth - 1 in there_taps
        if not enough:
            differing.append(f"of the last block it holds {there!r} there and {self.last!r} is needed here")
        return differing

    def with_layers_of(self, stored: dict[str, Any]) -> CacheKey:
        """The same key with the taps and the last block that a cache holds."""
        return replace(self, taps=tuple(stored["taps"]), last=stored["last"])


@dataclass(frozen=True)
class ClipBytes:
    """Bytes of one clip: its tokens, their scales, and its pixels for the stem."""

    tokens: int
    scales: int
    pixels: int

    @property
    def together(self) -> int:
        """All of them."""
        return self.tokens + self.scales + self.pixels


def clip_bytes(
    tokens: int,
    *,
    width: int,
    stored_type: torch.dtype,
    num_frames: int,
    image_size: tuple[int, int],
    whole_pixels: bool,
) -> ClipBytes:
    """Bytes of one clip with so many stored `tokens` in a frame, all layers together. `whole_pixels`: stored as
    float32, since they are not those of an 8-bit picture."""
    height, width_px = image_size
    return ClipBytes(
        tokens=num_frames * tokens * width * stored_type.itemsize,
        scales=num_frames * tokens * 4 if stored_type == torch.int8 else 0,
        pixels=num_frames * 3 * height * width_px * (4 if whole_pixels else 1),
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}..."
    return text
