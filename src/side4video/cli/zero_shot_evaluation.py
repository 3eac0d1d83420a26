"""The work of `side4video evaluate --zero-shot`: clips scored by class names alone, without a run."""

from __future__ import annotations

import time

from side4video.build import build_backbone
from side4video.build_zero_shot import build_zero_shot
from side4video.cli.evaluation import Evaluation, score_clips, summarise
from side4video.cli.views import Views
from side4video.config.schema import RunSettings
from side4video.data.manifest import read_manifest
from side4video.errors import InputError
from side4video.training.runtime import start


def evaluate_zero_shot(settings: RunSettings, source: str, *, views: Views, shuffle_frames: bool) -> Evaluation | None:
    """Score the clips of `source` by their class names; None in all processes but the first.

    Raises:
        BackboneError: a backbone that cannot be had, or has no text tower.
        DataError: clips that cannot be used.
        MissingExtraError: a tokenizer that needs a package that is not installed.
    """
    begin = time.monotonic()
    data = settings.data
    runtime = start(settings.train)
    try:
        manifest = read_manifest(
            source, format=data.format, root=data.root, frame_pattern=data.frame_pattern, classes=data.classes
        )
        backbone = build_backbone(settings, device=runtime.device)
        model = build_zero_shot(settings, manifest.class_names, backbone)
        result = score_clips(settings, model, manifest, runtime, views=views, shuffle_frames=shuffle_frames)
    except InputError as error:
        if runtime.is_main:
            raise
        raise SystemExit(0) from error  # every process has found the same, and one is enough to say so
    finally:
        runtime.close()
    if not runtime.is_main:
        return None
    named = settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"name": backbone.name})})
    return summarise(
        result,
        manifest,
        named,
        title=f"zero-shot {backbone.name}",
        where=source,
        trained="not trained,",
        backbone=backbone.name,
        class_names=manifest.class_names,
        views=views,
        shuffle_frames=shuffle_frames,
        curves=[],
        split=None,
        seconds=time.monotonic() - begin,
    )
