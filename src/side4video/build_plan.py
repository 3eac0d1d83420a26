"""Settings to what a plan needs: estimates of any changed settings, arithmetic of the frozen model, bytes of a cache.

Everything is built on the meta device: shapes without weights, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.catalog import TINY
from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.build import build_spec, estimate_run, planned_shards, streams_weights
from side4video.build_recognition import build_manifests
from side4video.build_retrieval import build_caption_sets
from side4video.cache.key import ClipBytes, clip_bytes
from side4video.config.schema import RunSettings
from side4video.memory.estimate import StepEstimate
from side4video.memory.plan import Change, Estimator
from side4video.memory.retrieval_step import estimate_retrieval_step
from side4video.memory.track import StorageTracker
from side4video.side.network import MemoryMode
from side4video.side.spec import resolve_taps
from side4video.tasks.retrieval import VideoTextModel

AUTOCAST = {"fp32": None, "fp16": torch.float16}


@dataclass(frozen=True)
class ClipFacts:
    """Of one clip: FLOPs of the frozen forward pass up to the last tap, and bytes in a feature cache, in the backbone's
    precision and in int8."""

    frozen_flops: int
    cached: ClipBytes
    cached_int8: ClipBytes


def plan_estimator(settings: RunSettings, num_classes: int) -> Estimator:
    """Estimates of training steps of these settings, for either task; nothing is loaded.

    Raises:
        BackboneError: unknown, without patch tokens, or in retrieval without a text tower.
        ConfigError: side settings that do not fit the backbone.
    """

    def estimate(memory: MemoryMode, batch_size: int, changes: Mapping[str, Any] | None = None, /) -> StepEstimate:
        now = changed(settings, changes or {})
        if now.task == "recognition":
            return estimate_run(now, num_classes)(memory, batch_size)
        return _estimate_retrieval(now, memory, batch_size)

    return estimate


def changed(settings: RunSettings, changes: Mapping[str, Any]) -> RunSettings:
    """The settings with others in place of some, by dotted name.

    Raises:
        ValidationError: a value that is not allowed.
    """
    if not changes:
        return settings
    values = settings.model_dump()
    for key, value in changes.items():
        *groups, name = key.split(".")
        at = values
        for group in groups:
            at = at[group]
        at[name] = value
    return RunSettings.model_validate(values)


def saving_changes(settings: RunSettings) -> list[Change]:
    """What could be changed beside the memory mode and the batch size: first what leaves the numbers alone, last what
    makes another model."""
    backbone, devices = settings.backbone, settings.train.devices
    found: list[Change] = []
    in_step = settings.cache.dir is None and (settings.task == "recognition" or settings.retrieval.chunk_size is None)
    alone = backbone.quantise == "none" and not backbone.stream_weights and not backbone.compile
    if in_step and alone and not backbone.shard and isinstance(devices, int) and devices > 1:
        found.append(Change({"backbone.shard": True}, "same"))
    if not backbone.stream_weights and not backbone.shard:
        found.append(Change({"backbone.stream_weights": True}, "same"))
    if backbone.quantise == "none" and not backbone.shard:
        found.append(Change({"backbone.quantise": "int8"}, "approximate"))
    model = plan_backbone(settings)
    spec = build_spec(settings.side, model, retrieval=settings.task == "retrieval")
    if len(resolve_taps(spec.taps, model.depth)) > model.depth // 2 > 0:
        found.append(Change({"side.taps": "every_second"}, "another model"))
    narrow = spec.width // 2 // 64 * 64
    if narrow >= 64 and settings.side.num_heads is None:
        found.append(Change({"side.width": narrow}, "another model"))
    return found


def plan_backbone(settings: RunSettings, memory: MemoryMode | None = None) -> FrozenBackbone:
    """The backbone as shapes without weights, in another memory mode than the settings' if one is given.

    Raises:
        BackboneError: unknown, or without patch tokens.
    """
    wanted = settings.backbone
    with torch.device("meta"):
        return create_backbone(
            wanted.name,
            image_size=wanted.image_size,
            precision=wanted.precision,
            quantise=wanted.quantise,
            stream_weights=streams_weights(settings, settings.memory if memory is None else memory),
            shard=planned_shards(settings),
            device="meta",
        )


def clip_facts(settings: RunSettings) -> ClipFacts:
    """What holds for each clip, whatever the batch.

    Raises:
        BackboneError, ConfigError: as `plan_estimator`.
    """
    backbone = plan_backbone(settings)
    retrieval = settings.task == "retrieval"
    taps = resolve_taps(build_spec(settings.side, backbone, retrieval=retrieval).taps, backbone.depth)
    wanted, num_frames = backbone.preprocessing, settings.data.num_frames
    last = backbone.depth - 1
    with StorageTracker() as tracker:
        clip_BTCHW = torch.empty(1, num_frames, 3, *wanted.image_size, device="meta")
        for _ in backbone.stream(clip_BTCHW, [*taps, last] if retrieval else taps):
            pass
    rows, columns = backbone.grid(wanted.image_size)
    class_tokens = int(retrieval and last not in taps)
    tokens = len(taps) * (backbone.num_prefix + rows * columns) + class_tokens
    views = settings.cache.views != "fixed"
    cached, cached_int8 = (
        clip_bytes(
            tokens,
            width=backbone.width,
            stored_type=stored_type,
            num_frames=num_frames,
            image_size=wanted.image_size,
            whole_pixels=views and not retrieval and settings.data.random_erasing > 0,
        )
        for stored_type in (backbone.precision, torch.int8)
    )
    flops = sum(operation.flops * operation.count for operation in tracker.operations)
    return ClipFacts(flops, cached, cached_int8)


def count_items(settings: RunSettings) -> int:
    """Training items of an epoch: clips, or in retrieval captions or videos as `retrieval.captions` says.

    Raises:
        ConfigError, DataError: no data set, or one that cannot be read.
    """
    if settings.task == "recognition":
        return len(build_manifests(settings)[0])
    train, _ = build_caption_sets(settings)
    return len(train) if settings.retrieval.captions == "one" else train.num_captions


def _estimate_retrieval(settings: RunSettings, memory: MemoryMode, batch_size: int) -> StepEstimate:
    wanted = settings.retrieval
    backbone = plan_backbone(settings, memory)
    # the small one reads its scale from its weights
    text = create_text_tower(TINY, pretrained=False).to("meta") if backbone.name == TINY else None
    with torch.device("meta"):
        model = VideoTextModel(
            backbone,
            text or create_text_tower(backbone.name, pretrained=False),
            side=build_spec(settings.side, backbone, retrieval=True),
            interaction=wanted.interaction,
            train_text=wanted.train_text,
            memory=memory,
            frame_slice=settings.backbone.frame_slice,
        )
    return estimate_retrieval_step(
        model,
        # a chunk at a time is embedded with a graph
        batch_size=min(batch_size, wanted.chunk_size or batch_size),
        num_frames=settings.data.num_frames,
        max_words=wanted.max_words,
        image_size=backbone.preprocessing.image_size,
        autocast=AUTOCAST.get(settings.train.precision, torch.bfloat16),
    )
