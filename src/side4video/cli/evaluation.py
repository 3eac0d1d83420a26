"""The work of `side4video evaluate`: scores of a run on a split, and what is written of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from side4video.batch import BrokenClip
from side4video.build import build_manifests, load_classifier, pixel_format
from side4video.cli.charts import Line
from side4video.cli.console import progress_bar
from side4video.cli.report_page import NUM_HARDEST, Curves, ReportData, ScoredClip, render_report, thumbnails
from side4video.cli.scores import ScoreRow, write_scores
from side4video.cli.views import Views
from side4video.config.describe import known_settings
from side4video.config.schema import RunSettings
from side4video.data.class_names import find_mirror_pairs
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import make_eval_loader
from side4video.data.manifest import Manifest, read_manifest
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform
from side4video.errors import CheckpointError, InputError
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.zero_shot import ZeroShotClassifier
from side4video.training.checkpoint import METRICS, RUN, RunFolder, writing
from side4video.training.evaluate import EvaluationResult, evaluate
from side4video.training.files import read_json, write_bytes
from side4video.training.runtime import Runtime, start
from side4video.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation found. Shares are in 0..1; `rows` are in the order of the records, broken ones left out;
    `confusion[i][j]` counts clips of class i that were called j; `per_class` leaves out classes without clips."""

    title: str
    subtitle: str
    top1: float
    top5: float
    mean_class: float
    num_videos: int
    loss: float
    class_names: tuple[str, ...]
    per_class: dict[str, float]
    confusion: list[list[int]]
    rows: list[ScoreRow]
    frame_patterns: list[str | None]
    broken: tuple[BrokenClip, ...]
    curves: list[Curves]
    warnings: list[str]
    settings: RunSettings
    views: Views
    shuffle_frames: bool
    seconds: float


def evaluate_run(
    folder: Path,
    settings: RunSettings,
    *,
    source: str | None,
    split: str,
    views: Views,
    shuffle_frames: bool,
) -> Evaluation | None:
    """Score the clips of `source`, or of a split of the run; None in all processes but the first.

    Raises:
        CheckpointError: the run is damaged or belongs to another backbone.
        DataError: no clips, unknown classes, or none that can be read.
        TrainingError: scores that are NaN.
    """
    begin = time.monotonic()
    runtime = start(settings.train)
    try:
        class_names = tuple(RunFolder(folder).class_names())
        manifest, where = _manifest(settings, source, split, class_names)
        model = load_classifier(folder, device=runtime.device)
        result = score_clips(settings, model, manifest, runtime, views=views, shuffle_frames=shuffle_frames)
    except InputError as error:
        if runtime.is_main:
            raise
        raise SystemExit(0) from error  # every process has found the same, and one is enough to say so
    finally:
        runtime.close()
    if not runtime.is_main:
        return None
    return summarise(
        result,
        manifest,
        settings,
        title=folder.resolve().name,
        where=where,
        trained=_trained_on(folder, settings),
        backbone=model.backbone.name,
        class_names=class_names,
        views=views,
        shuffle_frames=shuffle_frames,
        curves=_curves(folder),
        split=None if source else split,
        seconds=time.monotonic() - begin,
    )


def summarise(
    result: EvaluationResult,
    manifest: Manifest,
    settings: RunSettings,
    *,
    title: str,
    where: str,
    trained: str,
    backbone: str,
    class_names: tuple[str, ...],
    views: Views,
    shuffle_frames: bool,
    curves: list[Curves],
    split: str | None,
    seconds: float,
) -> Evaluation:
    """What a result says, in words and rows; `split` is None for clips that are not the run's own."""
    report = result.report
    rows = [
        _row(manifest, index, scores_K, class_names)
        for index, scores_K in zip(result.indices_V.tolist(), result.scores_VK, strict=True)
    ]
    correct, videos = report.correct_K.tolist(), report.videos_K.tolist()
    looks = f"{views.clips} clip{'s' * (views.clips > 1)} x {views.crops} crop{'s' * (views.crops > 1)}"
    shuffled = ", frames shuffled" if shuffle_frames else ""
    return Evaluation(
        title=title + (" (frames shuffled)" if shuffle_frames else ""),
        subtitle=f"{len(rows)} clips of {where}; {looks} of {settings.data.num_frames} frames{shuffled}; "
        f"{trained} {backbone}",
        top1=report.top1,
        top5=report.top5,
        mean_class=report.mean_class,
        num_videos=report.num_videos,
        loss=result.loss,
        class_names=class_names,
        per_class={name: right / n for name, right, n in zip(class_names, correct, videos, strict=True) if n},
        confusion=report.confusion_KK.tolist(),
        rows=rows,
        frame_patterns=[manifest.records[index].frame_pattern for index in result.indices_V.tolist()],
        broken=result.broken,
        curves=curves,
        warnings=_warnings(settings, class_names, split=split, shuffle_frames=shuffle_frames),
        settings=settings,
        views=views,
        shuffle_frames=shuffle_frames,
        seconds=seconds,
    )


def write_outputs(result: Evaluation, *, report: Path | None, scores: Path | None) -> None:
    """Write the report page and the table of scores, those that have a place.

    Raises:
        TrainingError: a file cannot be written; what was there before still is.
    """
    if scores is not None:
        with writing(scores.parent):
            write_scores(scores, result.rows, result.class_names)
    if report is None:
        return
    hardest = sorted(range(len(result.rows)), key=lambda number: _own_score(result, number))[:NUM_HARDEST]
    data = ReportData(
        title=result.title,
        subtitle=result.subtitle,
        top1=result.top1,
        top5=result.top5,
        mean_class=result.mean_class,
        class_names=result.class_names,
        confusion=result.confusion,
        hardest=[_scored_clip(result, number) for number in hardest],
        broken=[(clip.path, clip.reason) for clip in result.broken],
        curves=result.curves,
        warnings=result.warnings,
        settings=[(key, _shown(result.settings, key)) for key in known_settings()],
        footer=f"side4video {__version__}, {time.strftime('%Y-%m-%d %H:%M')}, {result.seconds:.0f} s",
    )
    page = render_report(data).encode()
    with writing(report.parent):
        write_bytes(report, page)


def _manifest(
    settings: RunSettings, source: str | None, split: str, class_names: tuple[str, ...]
) -> tuple[Manifest, str]:
    """The clips, and what to call them."""
    data = settings.data
    if source is not None:
        manifest = read_manifest(
            source, format=data.format, root=data.root, frame_pattern=data.frame_pattern, class_names=class_names
        )
        return manifest, source
    train, val = build_manifests(settings)
    if train.class_names != class_names:
        raise CheckpointError(
            f"{data.train} has other classes now than the run was trained on ({train.num_classes} and "
            f"{len(class_names)}); name clips of the run's classes with --data"
        )
    if split == "train":
        return train, f"{data.train} (training)"
    return val, data.val or f"{data.train} (held out)"


def score_clips(
    settings: RunSettings,
    model: VideoClassifier | ZeroShotClassifier,
    manifest: Manifest,
    runtime: Runtime,
    *,
    views: Views,
    shuffle_frames: bool,
) -> EvaluationResult:
    """The scores of every clip, this process's share of them computed here, merged over all.

    Raises:
        DataError: no clip can be read.
        TrainingError: scores that are NaN.
    """
    dataset = ClipDataset(
        manifest,
        sampler=FrameSampler(settings.data.sampling, settings.data.num_frames),
        transform=TestTransform(pixel_format(model.backbone.preprocessing), settings.data.resize, views.crops),
        mode="test" if views.clips > 1 else "val",
        num_clips=views.clips,
        seed=settings.train.seed,
        shuffle_frames=shuffle_frames,
    )
    loader = make_eval_loader(
        dataset,
        batch_size=max(1, settings.data.batch_size // views.count),
        rank=runtime.rank,
        world_size=runtime.world_size,
        workers=settings.data.workers,
    )
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=-(-len(manifest) * views.count // runtime.world_size))
        return evaluate(model, loader, runtime=runtime, on_batch=lambda clips: bar.advance(task, clips))


def _row(manifest: Manifest, index: int, scores_K: Tensor, class_names: Sequence[str]) -> ScoreRow:
    record = manifest.records[index]
    return ScoreRow(
        path=record.path,
        start_seconds=record.start_seconds,
        end_seconds=record.end_seconds,
        label=class_names[record.label],
        predicted=class_names[int(scores_K.argmax())],
        scores=scores_K.tolist(),
    )


def _own_score(result: Evaluation, number: int) -> float:
    row = result.rows[number]
    return row.scores[result.class_names.index(row.label)]


def _scored_clip(result: Evaluation, number: int) -> ScoredClip:
    row = result.rows[number]
    return ScoredClip(
        path=row.path,
        label=row.label,
        predicted=row.predicted,
        label_score=_own_score(result, number),
        predicted_score=max(row.scores),
        thumbnails=thumbnails(
            row.path,
            frame_pattern=result.frame_patterns[number],
            start_seconds=row.start_seconds,
            end_seconds=row.end_seconds,
        ),
    )


def _trained_on(folder: Path, settings: RunSettings) -> str:
    """ "beside", or how much of the training set was seen first, where that was a part of it."""
    data = settings.data
    if data.fraction == 1 and data.shots is None:
        return "beside"
    part = f"{data.fraction:.0%}" if data.shots is None else f"{data.shots} of each class"
    count = read_json(folder / RUN).get("train_videos")
    return f"trained on {f'{count:,} clips' if count else 'a part of the clips'} ({part}), beside"


def _curves(folder: Path) -> list[Curves]:
    """The curves of the run's history; none when it has none that can be read."""
    try:
        history: list[dict[str, Any]] = read_json(folder / METRICS)["history"]
    except (CheckpointError, KeyError, TypeError) as error:
        logger.warning("no training curves in the report: %s", error)
        return []

    def line(name: str, key: str) -> list[Line]:
        points = [(float(row["epoch"]), float(row[key])) for row in history if row.get(key) is not None]
        return [Line(name, points)] if points else []

    charts = [
        Curves("Loss", [*line("training", "train_loss"), *line("validation", "val_loss")]),
        Curves("Top-1", [*line("training", "train_top1"), *line("validation", "val_top1")], percent=True),
    ]
    return [chart for chart in charts if chart.lines]


def _warnings(
    settings: RunSettings, class_names: Sequence[str], *, split: str | None, shuffle_frames: bool
) -> list[str]:
    found: list[str] = []
    pairs = find_mirror_pairs(class_names)
    if settings.data.flip == "on" and pairs:
        named = "; ".join(f"{one} / {other}" for one, other in pairs[:5])
        more = f" and {len(pairs) - 5} more pairs" if len(pairs) > 5 else ""
        found.append(
            f"A mirror exchanges these classes: {named}{more}. They were trained with data.flip=on, so half of their "
            "clips were shown mirrored under the wrong label. Train with data.flip=swap and data.flip_pairs, or with "
            "data.flip=off."
        )
    if split == "train":
        found.append("These clips were trained on: the numbers say nothing about new ones.")
    if shuffle_frames:
        found.append(
            "The frames of each clip are in random order: this is the control that shows what is read without motion."
        )
    return found


def _shown(settings: RunSettings, key: str) -> str:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return "" if value is None else str(value)
