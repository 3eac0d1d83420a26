"""Settings of many variants to trained runs: groups that share a frozen pass, one after the other, and their rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from side4video.backbones.base import FrozenBackbone
from side4video.build import build_backbone, build_model, estimate_run, resolve_settings, train_run
from side4video.build_cache import cached_loaders
from side4video.build_recognition import build_data, build_loaders, build_manifests
from side4video.build_zero_shot import start_head_from_text
from side4video.cache.size import CacheDialog
from side4video.config.groups import BackboneSettings
from side4video.config.schema import RunSettings
from side4video.config.variants import Variant, share_groups
from side4video.data.loaders import ClipLoader
from side4video.errors import ConfigError, InputError, TrainingError
from side4video.tasks.recognition import VideoClassifier
from side4video.training.checkpoint import RunFolder
from side4video.training.fit import fit
from side4video.training.runtime import Runtime, start
from side4video.training.sweep import MemberResult, SweepMember, fit_together
from side4video.training.sweep_progress import SweepProgress
from side4video.training.values import TrainingData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRow:
    """What one variant came to. `score` is the best validation top-1 (retrieval: text-to-video R@1), `step_bytes` and
    `step_flops` the plan's for a training step of this variant alone; both are null in retrieval, `error` where it was
    trained."""

    name: str
    values: dict[str, str]
    group: int
    score: float | None
    best_epoch: int | None
    train_loss: float | None
    parameters: int | None
    step_bytes: int | None
    step_flops: int | None
    out: str
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and CSV have them."""
        return {
            "name": self.name,
            **self.values,
            "group": self.group,
            "status": "finished" if self.error is None else "failed",
            "score": self.score,
            "best_epoch": self.best_epoch,
            "train_loss": self.train_loss,
            "parameters": self.parameters,
            "step_bytes": self.step_bytes,
            "step_gflops": None if self.step_flops is None else self.step_flops / 1e9,
            "out": self.out,
            "error": self.error,
        }


@dataclass(frozen=True)
class SweepResult:
    """The rows of all variants, in their order. Only the process with `is_main` should tell the user."""

    rows: tuple[SweepRow, ...]
    is_main: bool


def run_sweep(
    variants: Sequence[Variant],
    out: str | Path,
    *,
    resume: bool = False,
    progress: SweepProgress | None = None,
    cache_dialog: CacheDialog | None = None,
) -> SweepResult:
    """Train every variant; each leaves a run folder of its name in `out`.

    With `cache.dir` a group reads its frozen tokens from the cache, of which what is missing is made first;
    `cache_dialog` is as in `train_run`. One that fails while it trains (a loss that is NaN) does not stop the others.
    With `resume` all go on from where they were stopped.

    Raises:
        InputError: settings, data or backbone that cannot be used.
        TrainingError: every variant has failed.
        KeyboardInterrupt, SystemExit: as `fit`, after all have been saved.
    """
    folder = Path(out)
    backbones: list[tuple[BackboneSettings, FrozenBackbone]] = []
    runtime = start(variants[0].settings.train)
    show = progress or SweepProgress()
    results: list[tuple[int, Variant, MemberResult, VideoClassifier | None]] = []
    try:
        for number, group in enumerate(share_groups(variants), start=1):
            try:
                found = _train_group(
                    group, folder, runtime, backbones, resume=resume, progress=show, cache_dialog=cache_dialog
                )
            except TrainingError as error:
                found = [(MemberResult(v.name, None, str(error)), None) for v in group]
            results += [(number, v, *pair) for v, pair in zip(group, found, strict=True)]
        if all(result.error is not None for _, _, result, _ in results):
            raise TrainingError(f"every variant has failed; {results[0][1].name}: {results[0][2].error}")
        rows = [_row(*entry, folder) for entry in results] if runtime.is_main else []
    except InputError as error:
        if runtime.is_main:
            raise
        raise SystemExit(0) from error  # every process has found the same
    finally:
        runtime.close()
    order = {variant.name: place for place, variant in enumerate(variants)}
    return SweepResult(tuple(sorted(rows, key=lambda row: order[row.name])), runtime.is_main)


def _train_group(
    group: Sequence[Variant],
    folder: Path,
    runtime: Runtime,
    backbones: list[tuple[BackboneSettings, FrozenBackbone]],
    *,
    resume: bool,
    progress: SweepProgress,
    cache_dialog: CacheDialog | None,
) -> list[tuple[MemberResult, VideoClassifier | None]]:
    settings = group[0].settings
    if settings.task == "retrieval":
        return [_train_alone(variant, folder, runtime, resume=resume, progress=progress) for variant in group]
    train, val = build_manifests(settings)
    own = _backbone(settings, runtime, backbones)
    loaders = build_loaders(
        settings,
        own.preprocessing,
        train,
        val,
        rank=runtime.rank,
        world_size=runtime.world_size,
        pin_memory=runtime.device.type == "cuda",
    )
    try:
        members = [_member(variant, train.class_names, own, folder) for variant in group]
        data = _cached(settings, members, loaders, build_data(*loaders), runtime, cache_dialog)
        if len(members) > 1:
            results = fit_together(members, data, runtime=runtime, resume=resume, progress=progress)
        else:
            (only,) = members
            going_on = resume and RunFolder(only.out).holds_run()
            view = progress.member(only.name)
            fitted = fit(only.settings, only.model, data, only.out, resume=going_on, runtime=runtime, progress=view)
            progress.close()
            results = [MemberResult(only.name, fitted)]
    finally:
        for loader in loaders:
            loader.close()
    return [(result, member.model) for result, member in zip(results, members, strict=True)]


def _member(variant: Variant, names: Sequence[str], own: FrozenBackbone, folder: Path) -> SweepMember:
    model = build_model(variant.settings, names, backbone=own)
    if variant.settings.head.init == "text":
        start_head_from_text(variant.settings, model)
    return SweepMember(variant.name, resolve_settings(variant.settings, own), model, folder / variant.name)


def _cached(
    settings: RunSettings,
    members: Sequence[SweepMember],
    loaders: tuple[ClipLoader, ClipLoader],
    data: TrainingData,
    runtime: Runtime,
    dialog: CacheDialog | None,
) -> TrainingData:
    """The same data with stored tokens of every block that one of the members taps, where the settings want a cache."""
    if settings.cache.dir is None:
        return data
    taps = sorted({tap for member in members for tap in member.model.side.taps})
    train, val = cached_loaders(settings, members[0].model, loaders, runtime=runtime, dialog=dialog, taps=taps)
    return replace(data, train_loader=train, val_loader=val, seek=train.seek)


def _train_alone(
    variant: Variant, folder: Path, runtime: Runtime, *, resume: bool, progress: SweepProgress
) -> tuple[MemberResult, None]:
    """A variant that brings its own backbone pass: retrieval."""
    if runtime.world_size > 1:
        raise ConfigError(
            "a sweep of retrieval runs in one process; "
            f"got {runtime.world_size} (train.devices). Train its variants one by one, or set train.devices=1"
        )
    out = folder / variant.name
    going_on = resume and RunFolder(out).holds_run()
    try:
        fitted = train_run(variant.settings, out, resume=going_on, progress=progress.member(variant.name))
    except TrainingError as error:
        logger.warning("%s has failed, the others go on: %s", variant.name, error)
        return MemberResult(variant.name, None, str(error)), None
    finally:
        progress.close()
    return MemberResult(variant.name, fitted), None


def _backbone(
    settings: RunSettings, runtime: Runtime, backbones: list[tuple[BackboneSettings, FrozenBackbone]]
) -> FrozenBackbone:
    """The backbone of a group: the last group's when it has the same, for only one is kept."""
    # random weights follow the seed
    if backbones and backbones[0][0] == settings.backbone and settings.backbone.pretrained:
        return backbones[0][1]
    backbones.clear()
    own = build_backbone(settings, device=runtime.device)
    backbones.append((settings.backbone, own))
    return own


def _row(number: int, variant: Variant, result: MemberResult, model: VideoClassifier | None, folder: Path) -> SweepRow:
    fitted = result.fit
    estimate = None
    if model is not None:
        settings = variant.settings
        batch_size = settings.data.batch_size * settings.data.repeated_augmentation
        estimate = estimate_run(settings, model.head.out_features)(settings.memory, batch_size)
    best = None if fitted is None else fitted.top1 if fitted.t2v_r1 is None else fitted.t2v_r1
    return SweepRow(
        name=variant.name,
        values=variant.values,
        group=number,
        score=best,
        best_epoch=None if fitted is None else fitted.best_epoch,
        train_loss=fitted.history[-1]["train_loss"] if fitted is not None and fitted.history else None,
        parameters=None if estimate is None else estimate.trainable_parameters,
        step_bytes=None if estimate is None else estimate.peak_bytes,
        step_flops=None if estimate is None else estimate.flops_step,
        out=str(folder / variant.name),
        error=result.error,
    )
