"""`side4video evaluate`: accuracy, confusion, a report page, and the scores of every clip; ranks in retrieval."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import note, say, show_table
from side4video.cli.main import DONE, WRONG_DATA, Outcome
from side4video.cli.video_paths import check_run
from side4video.cli.views import parse_views
from side4video.config.load import load_settings, parse_overrides
from side4video.errors import ConfigError, DataError

if TYPE_CHECKING:
    from side4video.cli.evaluation import Evaluation
    from side4video.cli.parser import CommandParser
    from side4video.config.schema import RunSettings

USAGE = "RUN [options] [KEY=VALUE ...]   or   --zero-shot BACKBONE DATA [options]"
EXAMPLES = """  side4video evaluate runs/mine
  side4video evaluate runs/mine --views 4x3
  side4video evaluate runs/mine --data test.csv --scores scores.parquet --json
  side4video evaluate runs/mine --shuffle-frames
  side4video evaluate runs/search --data captions.csv
  side4video evaluate --zero-shot open_clip:ViT-B-16/openai clips/val --views 4x1"""

SHORT_FLAGS = {
    "--num-frames": "data.num_frames",
    "--batch-size": "data.batch_size",
    "--workers": "data.workers",
    "--devices": "train.devices",
    "--accelerator": "train.accelerator",
}
CHANGEABLE = frozenset(
    {
        *SHORT_FLAGS.values(),
        "data.root",
        "data.format",
        "data.frame_pattern",
        "data.sampling",
        "data.resize",
        "train.precision",
        "backbone.frame_slice",
        "retrieval.format",
        "retrieval.val_split",
        "retrieval.missing",
        "retrieval.test_frames",
    }
)
# of a run these are what it was trained with
ZERO_SHOT_ONLY = frozenset(
    {
        "head.templates",
        "data.classes",
        "backbone.weights",
        "backbone.pretrained",
        "backbone.image_size",
        "backbone.precision",
    }
)
_SHOWN_CLASSES = 30
_SHOWN_BROKEN = 20


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run; with --zero-shot the clips")
    parser.add_option(
        "--zero-shot",
        metavar="BACKBONE",
        help="no run: the backbone's own text tower names the classes, from prompts (head.templates), without training",
    )
    parser.add_option("--data", metavar="SOURCE", help="other clips: a folder of class folders, or a list file")
    parser.add_option(
        "--views",
        default="1x1",
        metavar="CLIPSxCROPS",
        help="looks at each video, whose scores are averaged: CLIPS choices of frames, each in CROPS (1, 3 or 5) parts "
        "of the picture. 4x3: 4 clips x 3 crops. Default: 1x1.",
    )
    parser.add_option("--split", default="val", metavar="NAME", help="val or train of the run. Default: val.")
    parser.add_switch("--shuffle-frames", help="the control: frames in random order, so that motion cannot be read")
    parser.add_option("--scores", metavar="FILE", help=".csv or .parquet. Default: RUN/evaluation/scores.csv.")
    parser.add_option("--report", metavar="FILE", help=".html. Default: RUN/evaluation/report.html.")
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE | ZERO_SHOT_ONLY)


def run(options: argparse.Namespace) -> Outcome:
    """Evaluate, and write the report and the scores.

    Raises:
        ConfigError: an option has a value that is not allowed, or RUN is none.
        DataError: the data cannot be used.
        MissingExtraError: parquet is wanted, and pyarrow is not installed.
    """
    views = parse_views(options.views)
    if options.split not in {"val", "train"}:
        raise ConfigError(f"--split: must be val or train; got '{options.split}'")
    if options.data is not None and not Path(options.data).exists():
        raise DataError(f"--data: no such file or folder: '{options.data}'")
    if options.zero_shot is not None:
        return _zero_shot(options)
    foreign = sorted(set(options.overrides) & ZERO_SHOT_ONLY)
    if foreign:
        raise ConfigError(f"{foreign[0]}: belongs to --zero-shot; a run is evaluated with what it was trained with")
    folder = Path(options.run)
    check_run(folder)
    # where it was trained says nothing about where it is evaluated
    overrides = {"train.devices": "auto", "train.accelerator": "auto", **parse_overrides(options.overrides)}
    if options.data is not None:
        # the run's own root and format belong to its own lists
        overrides = {"data.root": None, "data.format": "auto", "retrieval.format": "auto", **overrides}
    settings = load_settings(folder / "config.yaml", overrides)
    if settings.task == "retrieval":
        return _retrieval(options, settings, views.count)
    suffix = "-shuffled" if options.shuffle_frames else ""
    report = Path(options.report or folder / "evaluation" / f"report{suffix}.html")
    scores = Path(options.scores or folder / "evaluation" / f"scores{suffix}.csv")
    if report.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(f"--report: must end in .html; got '{report}'")

    from side4video.cli.evaluation import evaluate_run, write_outputs
    from side4video.cli.scores import check_scores_path

    check_scores_path(scores)
    for path in (report, scores):
        if path.is_dir():
            raise ConfigError(f"'{path}' is a folder; name a file")
        # found out now rather than after the work
        path.parent.mkdir(parents=True, exist_ok=True)
    result = evaluate_run(
        folder,
        settings,
        source=options.data,
        split=options.split,
        views=views,
        shuffle_frames=options.shuffle_frames,
    )
    if result is None:
        return Outcome(DONE)  # one of several processes; the first one tells
    write_outputs(result, report=report, scores=scores)
    for clip in result.broken[:_SHOWN_BROKEN]:
        note(f"could not be read: {clip.path}: {clip.reason}")
    if len(result.broken) > _SHOWN_BROKEN:
        note(f"... and {len(result.broken) - _SHOWN_BROKEN} more; the report lists them")
    if not options.json:
        _show(result)
    note(f"report: {report}")
    note(f"scores: {scores}")
    value = _as_json(result) | {"report": str(report), "scores": str(scores)}
    return Outcome(WRONG_DATA if result.broken else DONE, value)


def _zero_shot(options: argparse.Namespace) -> Outcome:
    given = [name for name, unset in (("data", None), ("split", "val")) if getattr(options, name) != unset]
    if given:
        raise ConfigError(f"--{given[0]}: has no meaning with --zero-shot; the clips are named instead of a run")
    if not Path(options.run).exists():
        raise DataError(f"no such file or folder: '{options.run}'")
    settings = load_settings(None, {**parse_overrides(options.overrides), "backbone.name": options.zero_shot})
    report, scores = (None if path is None else Path(path) for path in (options.report, options.scores))
    if report is not None and report.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(f"--report: must end in .html; got '{report}'")

    from side4video.cli.evaluation import write_outputs
    from side4video.cli.scores import check_scores_path
    from side4video.cli.zero_shot_evaluation import evaluate_zero_shot

    if scores is not None:
        check_scores_path(scores)
    result = evaluate_zero_shot(
        settings, options.run, views=parse_views(options.views), shuffle_frames=options.shuffle_frames
    )
    if result is None:
        return Outcome(DONE)  # one of several processes; the first one tells
    for path in (report, scores):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    write_outputs(result, report=report, scores=scores)
    for clip in result.broken[:_SHOWN_BROKEN]:
        note(f"could not be read: {clip.path}: {clip.reason}")
    if not options.json:
        _show(result)
    return Outcome(
        WRONG_DATA if result.broken else DONE, _as_json(result) | {"zero_shot": result.settings.backbone.name}
    )


def _retrieval(options: argparse.Namespace, settings: RunSettings, num_views: int) -> Outcome:
    given = [name for name in ("scores", "report") if getattr(options, name) is not None]
    if given or num_views > 1:
        name = f"--{given[0]}" if given else "--views"
        raise ConfigError(f"{name}: '{options.run}' is a retrieval run, which has none")

    from side4video.cli.retrieval_evaluation import as_json, evaluate_retrieval_run, show

    found = evaluate_retrieval_run(
        Path(options.run),
        settings,
        source=options.data,
        split=options.split,
        shuffle_frames=options.shuffle_frames,
    )
    if found is None:
        return Outcome(DONE)  # one of several processes; the first one tells
    for clip in found.result.broken[:_SHOWN_BROKEN]:
        note(f"could not be read: {clip.path}: {clip.reason}")
    if len(found.result.broken) > _SHOWN_BROKEN:
        note(f"... and {len(found.result.broken) - _SHOWN_BROKEN} more")
    if not options.json:
        show(found)
    return Outcome(WRONG_DATA if found.result.broken else DONE, as_json(found))


def _as_json(result: Evaluation) -> dict[str, Any]:
    return {
        "top1": result.top1,
        "top5": result.top5,
        "mean_class": result.mean_class,
        "num_videos": result.num_videos,
        "broken": len(result.broken),
        "loss": result.loss,
        "views": str(result.views),
        "shuffled_frames": result.shuffle_frames,
        "per_class": result.per_class,
        "confusion": result.confusion,
        "classes": list(result.class_names),
        "broken_videos": [{"path": clip.path, "reason": clip.reason} for clip in result.broken],
        "warnings": list(result.warnings),
    }


def _show(result: Evaluation) -> None:
    from rich.table import Table

    say(f"top-1       {100 * result.top1:6.2f} %")
    say(f"top-5       {100 * result.top5:6.2f} %")
    say(f"mean class  {100 * result.mean_class:6.2f} %")
    say(f"videos      {result.num_videos}   ({result.views} views)")
    if result.broken:
        say(f"broken      {len(result.broken)}   (not in the numbers)")
    worst = sorted(result.per_class.items(), key=lambda item: (item[1], item[0]))
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("right", justify="right")
    table.add_column("clips", justify="right")
    table.add_column("most often called instead", overflow="fold")
    for name, share in worst[:_SHOWN_CLASSES]:
        row = list(result.confusion[result.class_names.index(name)])
        total = sum(row)
        row[result.class_names.index(name)] = 0
        called = f"{result.class_names[row.index(max(row))]} ({max(row)})" if max(row) else ""
        table.add_row(name, f"{100 * share:.1f} %", str(total), called)
    say()
    show_table(table)
    if len(worst) > _SHOWN_CLASSES:
        say(f"... and {len(worst) - _SHOWN_CLASSES} classes that do better; the report lists them")
