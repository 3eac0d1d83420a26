"""Every setting of a run: one definition gives YAML, overrides, help and validation. The groups are in `groups.py`.

The line under each field is its help text on the command line. Unknown keys are errors. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import model_validator

from side4video.config.groups import (
    BackboneSettings,
    CacheSettings,
    DataSettings,
    HeadSettings,
    OptimSettings,
    RetrievalSettings,
    Settings,
    SideSettings,
    TrainSettings,
)

RETRIEVAL_DEFAULTS: dict[str, dict[str, Any]] = {
    "data": {"num_frames": 12, "batch_size": 128},
    "optim": {"epochs": 5, "lr": 1e-4, "weight_decay": 0.2, "betas": (0.9, 0.98), "clip_grad_norm": 1.0},
}
"""What the paper's retrieval sets otherwise than its recognition; with `task: retrieval` these are the defaults."""


class RunSettings(Settings):
    """Everything that makes a run."""

    task: Literal["recognition", "retrieval"] = "recognition"
    """What is learned: to name actions, or to find videos by text. retrieval has defaults of its own: 12 frames, batch
    128, 5 epochs at optim.lr=1e-4, weight decay 0.2, betas 0.9 and 0.98, gradients clipped to 1."""
    memory: Literal["fast", "balanced", "lean", "smallest"] = "balanced"
    """What training keeps; the numbers do not change. fast: everything. balanced: what enters each side block, the rest
    is computed again. lean: and what is kept waits in host memory. smallest: and a block is computed again in parts."""
    backbone: BackboneSettings = BackboneSettings()
    """The frozen image model."""
    side: SideSettings = SideSettings()
    """The side network."""
    data: DataSettings = DataSettings()
    """Clips and augmentation."""
    head: HeadSettings = HeadSettings()
    """The classifier."""
    retrieval: RetrievalSettings = RetrievalSettings()
    """Text-video retrieval."""
    cache: CacheSettings = CacheSettings()
    """Frozen tokens on the disk."""
    optim: OptimSettings = OptimSettings()
    """Optimiser and schedule."""
    train: TrainSettings = TrainSettings()
    """Process, precision, logging."""

    @model_validator(mode="after")
    def _unmixed_when_cached(self) -> RunSettings:
        mixing = [name for name in ("mixup", "cutmix") if getattr(self.data, name)]
        if self.cache.dir is not None and mixing:
            raise ValueError(
                f"cache.dir does not go with data.{mixing[0]}={getattr(self.data, mixing[0]):g}: it mixes pixels of "
                "clips, and stored tokens are of single clips; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _in_step_when_sharded(self) -> RunSettings:
        if not self.backbone.shard:
            return self
        if self.cache.dir is not None:
            raise ValueError(
                "backbone.shard does not go with cache.dir: processes fill a cache each at its own pace, and gathering "
                "a block takes all of them. Use backbone.stream_weights or backbone.quantise to fill it"
            )
        if self.task == "retrieval" and self.retrieval.chunk_size is not None:
            raise ValueError(
                f"backbone.shard does not go with retrieval.chunk_size={self.retrieval.chunk_size}: processes may have "
                "different numbers of chunks, and gathering a block takes all of them. Set retrieval.chunk_size=null"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("task") != "retrieval":  # pyright: ignore[reportUnknownMemberType]
            return values  # pyright: ignore[reportUnknownVariableType]
        filled: dict[str, Any] = {**values}
        for name, defaults in RETRIEVAL_DEFAULTS.items():
            given = filled.get(name, {})
            # whatever is no mapping is for the group's own validation to name
            if isinstance(given, dict):
                filled[name] = defaults | cast("dict[str, Any]", given)
        return filled
