"""The values that cross folders: clips, batches of them, a `TaskOutput`. Frozen, and nothing but data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, device, dtype


@dataclass(frozen=True)
class Clip:
    """T frames of one video, decoded and augmented.

    `frames_TCHW` is float32 and normalised for the backbone. `index` is the record's place in its manifest, `view`
    counts the views (crops x clips, or repeated augmentations) of one record.
    """

    frames_TCHW: Tensor
    label: int
    index: int
    path: str
    view: int = 0


@dataclass(frozen=True)
class BrokenClip:
    """A record whose video could not be read: kept by name, counted, never replaced."""

    index: int
    path: str
    reason: str


@dataclass(frozen=True)
class StoredTokens:
    """What frozen blocks gave for B clips at an earlier time, in place of running them.

    `tokens` holds a BTAD tensor for each of `layers` (block indices in order of depth). An int8 tensor goes with a BTA1
    tensor of `scales`, and their product is the token, in `precision`; else `scales` is empty. A layer of which only
    the class token is needed has A = 1. `has_class_token`, `num_prefix` and `grid_YX` are as in `LayerTokens`.

    Shapes: A, all tokens of a frame, prefix tokens first.
    """

    layers: tuple[int, ...]
    tokens: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]
    precision: dtype
    num_prefix: int
    has_class_token: bool
    grid_YX: tuple[int, int]

    def rows(self, chosen: slice) -> StoredTokens:
        """Those of some of the clips."""
        return self._changed(lambda tensor: tensor[chosen])

    def pin_memory(self) -> StoredTokens:
        """The same in page-locked memory."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[Tensor], Tensor]) -> StoredTokens:
        return replace(
            self, tokens=tuple(change(part) for part in self.tokens), scales=tuple(change(part) for part in self.scales)
        )


@dataclass(frozen=True)
class VideoBatch:
    """B clips. `labels_BK` holds soft labels once mixup or cutmix has run, else `None`.

    `clip_BTCHW` is float32, `labels_B`, `indices_B` and `views_B` are int64. `broken` lists the records of this batch
    that could not be read; they are not among the B clips. B may be 0 when all of them were broken. `stored` takes the
    place of the backbone; it stays where it is, and each layer follows the clips when the side network comes to it.
    """

    clip_BTCHW: Tensor
    labels_B: Tensor
    indices_B: Tensor
    views_B: Tensor
    broken: tuple[BrokenClip, ...] = field(default=())
    labels_BK: Tensor | None = None
    stored: StoredTokens | None = None

    def __len__(self) -> int:
        return self.clip_BTCHW.shape[0]

    def pin_memory(self) -> VideoBatch:
        """The same batch in page-locked memory; the data loader's pinning thread calls this."""
        return replace(
            self,
            clip_BTCHW=self.clip_BTCHW.pin_memory(),
            labels_B=self.labels_B.pin_memory(),
            indices_B=self.indices_B.pin_memory(),
            views_B=self.views_B.pin_memory(),
            labels_BK=None if self.labels_BK is None else self.labels_BK.pin_memory(),
            stored=None if self.stored is None else self.stored.pin_memory(),
        )

    def to(self, target: device | str, *, non_blocking: bool = False) -> VideoBatch:
        """The same batch with its tensors on another device."""
        soft_BK = None if self.labels_BK is None else self.labels_BK.to(target, non_blocking=non_blocking)
        return replace(
            self,
            clip_BTCHW=self.clip_BTCHW.to(target, non_blocking=non_blocking),
            labels_B=self.labels_B.to(target, non_blocking=non_blocking),
            indices_B=self.indices_B.to(target, non_blocking=non_blocking),
            views_B=self.views_B.to(target, non_blocking=non_blocking),
            labels_BK=soft_BK,
        )


@dataclass(frozen=True)
class TaskOutput:
    """What a task makes of a batch: `loss` is a scalar to differentiate, `logits_BK` are scores before softmax."""

    loss: Tensor
    logits_BK: Tensor


@dataclass(frozen=True)
class CaptionedClip:
    """T frames of one video, and captions of it: one in training, all of them in evaluation.

    `frames_TCHW` is float32 and normalised; `mask_T` is false where there is no frame and the picture is all zero.
    `index` is the record's place in its caption set.
    """

    frames_TCHW: Tensor
    mask_T: Tensor
    captions: tuple[str, ...]
    index: int
    path: str


@dataclass(frozen=True)
class CaptionBatch:
    """B clips and their M captions as tokens; caption m belongs to row `rows_M[m]` of the batch. In training M = B.

    `clip_BTCHW` is float32, `mask_BT` and `mask_MQ` bool, `ids_MQ`, `rows_M` and `indices_B` (records) int64. `broken`
    lists the records of this batch that could not be read; neither they nor their captions are among the rest. B may
    be 0. `stored` is as in `VideoBatch`.

    Shapes: M, captions; Q, tokens.
    """

    clip_BTCHW: Tensor
    mask_BT: Tensor
    ids_MQ: Tensor
    mask_MQ: Tensor
    rows_M: Tensor
    indices_B: Tensor
    broken: tuple[BrokenClip, ...] = field(default=())
    stored: StoredTokens | None = None

    def __len__(self) -> int:
        return self.clip_BTCHW.shape[0]

    def pin_memory(self) -> CaptionBatch:
        """The same batch in page-locked memory; the data loader's pinning thread calls this."""
        stored = None if self.stored is None else self.stored.pin_memory()
        return replace(self, **{name: value.pin_memory() for name, value in self._tensors().items()}, stored=stored)

    def to(self, target: device | str, *, non_blocking: bool = False) -> CaptionBatch:
        """The same batch with its tensors on another device."""
        moved = {name: value.to(target, non_blocking=non_blocking) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        names = ("clip_BTCHW", "mask_BT", "ids_MQ", "mask_MQ", "rows_M", "indices_B")
        return {name: getattr(self, name) for name in names}
