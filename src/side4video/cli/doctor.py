"""`side4video doctor`: what is wrong with a data set, before training finds out."""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from side4video.cli.console import progress_bar, say
from side4video.cli.main import DONE, WRONG_DATA, Outcome
from side4video.config.load import load_settings
from side4video.errors import ConfigError, DataError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.config.groups import DataSettings
    from side4video.data.health import Finding, HealthReport
    from side4video.data.manifest import Manifest

USAGE = "SOURCE [--val SOURCE] [options]"
EXAMPLES = """  side4video doctor clips/
  side4video doctor train.csv --val val.csv --workers 8
  side4video doctor frames.txt --frame-pattern 'img_{:05d}.jpg' --num-frames 16 --deep"""

_SHOWN_PER_KIND = 20


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("source", metavar="SOURCE", help="a folder of class folders, or a list file")
    parser.add_option("--val", metavar="SOURCE", help="the validation set, to compare with SOURCE")
    parser.add_option("--num-frames", type=int, default=8, metavar="T", help="frames of a clip. Default: 8.")
    parser.add_option("--format", default="auto", metavar="FORMAT", help="how to read SOURCE, as data.format")
    parser.add_option("--root", metavar="FOLDER", help="where relative paths start, as data.root")
    parser.add_option("--frame-pattern", metavar="PATTERN", help="file names in frame folders, as data.frame_pattern")
    parser.add_option("--classes", metavar="FILE", help="file of class names, as data.classes")
    parser.add_option("--workers", type=int, metavar="N", help="processes. Default: one a core.")
    parser.add_switch("--deep", help="decode every frame instead of three of each video")
    parser.add_switch("--all", help="list every finding, not only the first ones of each kind")
    parser.add_common()


def run(options: argparse.Namespace) -> Outcome:
    """Check, print, and say by the exit code whether something would hurt.

    Raises:
        ConfigError: an option has a value that is not allowed.
        DataError: SOURCE cannot be read as a data set at all.
    """
    # the schema holds what these settings may be; its messages are the same as when training
    given = {"train": options.source, "val": options.val, "num_frames": options.num_frames, "format": options.format}
    paths = {"root": options.root, "frame_pattern": options.frame_pattern, "classes": options.classes}
    data = load_settings({"data": given | paths}).data
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise ConfigError(f"--workers: must be at least 1; got {workers}")

    from side4video.data.health import check_health

    manifests = {"train": _read(options.source, data)}
    if options.val is not None:
        manifests["val"] = _read(options.val, data, manifests["train"].class_names)
    with progress_bar() as bar:
        total = sum(len(manifest.records) for manifest in manifests.values())
        task = bar.add_task("reading videos", total=total)
        report = check_health(
            manifests,
            num_frames=data.num_frames,
            workers=workers,
            deep=options.deep,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    if not options.json:
        _show(report, everything=options.all)
    return Outcome(WRONG_DATA if report.problems else DONE, _as_json(report))


def _read(source: str, data: DataSettings, train_names: Sequence[str] | None = None) -> Manifest:
    """A data set as training reads it; where training would refuse it as a whole, so far as it can be read at all."""
    from side4video.data.manifest import read_manifest

    read = partial(read_manifest, source, format=data.format, root=data.root, frame_pattern=data.frame_pattern)
    try:
        return read(classes=data.classes, class_names=train_names)
    except DataError as error:
        try:
            if train_names is not None:
                return read(classes=data.classes)
            if Path(source).is_dir():
                # an empty or a single class folder
                return read(
                    class_names=sorted(p.name for p in Path(source).iterdir() if p.is_dir() and p.name[0] != ".")
                )
        except DataError:
            pass
        raise error


def _as_json(report: HealthReport) -> dict[str, object]:
    def listed(findings: list[Finding]) -> list[dict[str, str | None]]:
        return [{"kind": f.kind, "split": f.split, "path": f.path, "detail": f.detail} for f in findings]

    return {
        "ok": not report.problems,
        "num_videos": dict(report.num_videos),
        "num_classes": report.num_classes,
        "problems": listed(report.problems),
        "notes": listed(report.notes),
    }


def _show(report: HealthReport, *, everything: bool) -> None:
    from side4video.data.health import NOTES, PROBLEMS

    counted = ", ".join(f"{count} {split}" for split, count in report.num_videos.items())
    say(f"{sum(report.num_videos.values())} clips ({counted}), {report.num_classes} classes")
    by_kind: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        by_kind[finding.kind].append(finding)
    for kind, title in (PROBLEMS | NOTES).items():
        found = by_kind[kind]
        if not found:
            continue
        say(f"\n{'PROBLEM' if kind in PROBLEMS else 'note'}: {title} ({len(found)})")
        shown = found if everything else found[:_SHOWN_PER_KIND]
        for finding in shown:
            say(f"  {finding.split}: {finding.path}: {finding.detail}" if finding.path else f"  {finding.detail}")
        if len(shown) < len(found):
            say(f"  ... and {len(found) - len(shown)} more; --all lists them")
    if report.problems:
        say(f"\n{len(report.problems)} problems would hurt training or its numbers")
    else:
        say("\nnothing that would hurt training was found")
