"""`side4video sweep`: several side networks over one frozen forward pass, and one comparison of them."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import note, show_table
from side4video.cli.main import DONE, WRONG_DATA, Outcome
from side4video.cli.train import CACHE_FLAG, SHORT_FLAGS, settings_from
from side4video.config.load import load_settings
from side4video.config.variants import Variant, differing, expand, share_groups
from side4video.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from side4video.build_sweep import SweepRow
    from side4video.cli.parser import CommandParser

USAGE = "SOURCE --out FOLDER KEY=VALUE,VALUE ... [options]"
EXAMPLES = """  side4video sweep clips/ --out runs/sweep side.temporal=conv,attention,none side.shift=true,false
  side4video sweep ssv2-b16-light data.root=/data/ssv2 --out runs/rates optim.lr=3e-4,1e-3,3e-3
  side4video sweep recipe.yaml --out runs/taps side.taps=all,every_second,[3,7,11]
  side4video sweep clips/ --out runs/widths side.width=192,320 --cache /data/cache --yes
  side4video sweep --out runs/sweep --resume"""
PLAN, TABLE = "sweep.json", "comparison"


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="as for `train`: a folder of class folders, a list file, a recipe (.yaml), or a shipped recipe's name",
    )
    parser.add_option("--out", metavar="FOLDER", help="the folder of this sweep: a run folder for each variant in it")
    parser.add_option("--recipe", metavar="NAME|FILE", help="settings to start from, when SOURCE is a data set")
    parser.add_switch("--resume", help="go on where the sweep in FOLDER stopped; starts it when nothing is there yet")
    parser.add_switch("--yes", help="write the feature cache of --cache without asking")
    parser.add_common()
    parser.add_settings({**SHORT_FLAGS, **CACHE_FLAG})


def run(options: argparse.Namespace) -> Outcome:
    """Train all variants and compare them.

    Raises:
        ConfigError: a setting is wrong, the folder is in use, or a resumed sweep is asked to be another one.
        DataError: the data set cannot be used.
    """
    if options.out is None:
        raise ConfigError("--out is missing: the folder for this sweep, such as --out runs/sweep")
    out = Path(options.out)
    variants = _variants(options, out)
    groups = share_groups(variants)
    _say_plan(groups, sum(len(group) for group in groups))
    # torch comes in here: everything above is checked without it
    from side4video.build_sweep import run_sweep
    from side4video.cli.console import is_first_process
    from side4video.training.files import write_bytes, write_json
    from side4video.training.sweep_progress import ShownSweep

    if is_first_process() and not (out / PLAN).exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / PLAN, _plan(variants))
    dialog = None
    if any(variant.settings.cache.dir is not None for variant in variants):
        from side4video.cli.cache_dialog import AskInTerminal

        dialog = AskInTerminal(yes=options.yes)
    result = run_sweep(variants, out, resume=options.resume, progress=ShownSweep(), cache_dialog=dialog)
    if not result.is_main:
        return Outcome()
    rows = [row.as_dict() for row in result.rows]
    write_json(out / f"{TABLE}.json", rows)
    write_bytes(out / f"{TABLE}.csv", _csv(rows).encode())
    from side4video.cli.sweep_page import render_sweep

    write_bytes(out / f"{TABLE}.html", render_sweep(out.name, result.rows, differing(variants)).encode())
    if not options.json:
        show_table(comparison_table(result.rows, differing(variants)))
    for row in result.rows:
        if row.error is not None:
            note(f"failed: {row.name}: {row.error}")
    note(f"comparison: {out / TABLE}.html, .csv, .json")
    best = _best(result.rows)
    if best is not None:
        note(f"best: side4video evaluate {best.out}")
    failed = any(row.error is not None for row in result.rows)
    value = {"out": str(out), "groups": len(groups), "best": best.name if best else None, "variants": rows}
    return Outcome(WRONG_DATA if failed else DONE, value)


def comparison_table(rows: Sequence[SweepRow], keys: Sequence[str]) -> Table:
    """The variants, best first, for a terminal."""
    from rich.table import Table

    from side4video.training.report import format_bytes

    table = Table("variant" if not keys else keys[0], *keys[1:])
    for heading in ("score", "epoch", "train loss", "parameters", "memory a step", "GFLOPs a step", "pass"):
        table.add_column(heading, justify="right")
    for row in ranked(rows):
        values = [row.values[key] for key in keys] or [row.name]
        numbers = [
            "failed" if row.error is not None else _shown(row.score, lambda v: f"{100 * v:.1f} %"),
            _shown(row.best_epoch, str),
            _shown(row.train_loss, lambda v: f"{v:.4f}"),
            _shown(row.parameters, lambda v: f"{v / 1e6:.2f} M"),
            _shown(row.step_bytes, format_bytes),
            _shown(row.step_flops, lambda v: f"{v / 1e9:,.0f}"),
            str(row.group),
        ]
        table.add_row(*values, *numbers)
    return table


def ranked(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """Best score first; without one by loss, failed ones last."""
    return sorted(
        rows,
        key=lambda row: (
            row.error is not None,
            -(row.score if row.score is not None else -1.0),
            row.train_loss if row.train_loss is not None else float("inf"),
        ),
    )


def _best(rows: Sequence[SweepRow]) -> SweepRow | None:
    good = [row for row in ranked(rows) if row.error is None]
    return good[0] if good else None


def _shown(value: Any, text: Any) -> str:
    return "" if value is None else text(value)


def _variants(options: argparse.Namespace, out: Path) -> list[Variant]:
    """The variants that the words mean, or those that the folder's sweep has."""
    stored = _stored(out) if options.resume and (out / PLAN).is_file() else None
    if stored is not None and options.source is None and options.recipe is None and not options.overrides:
        return stored
    if options.resume and stored is None and options.source is None and not options.overrides:
        raise ConfigError(f"--resume: there is no sweep in {out} (no {PLAN}), and no SOURCE to start one from")
    asked = expand(
        options.overrides, lambda words: settings_from(options.source, options.recipe, dict[str, Any](words))
    )
    if stored is not None:
        _check_same(stored, asked, out)
        return stored
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        hint = "go on with it: --resume, or choose another --out" if (out / PLAN).is_file() else "choose another --out"
        raise ConfigError(f"--out {out} is in use, and nothing is overwritten; {hint}")
    return asked


def _check_same(stored: list[Variant], asked: list[Variant], out: Path) -> None:
    there, wanted = ({v.name: v.settings for v in variants} for variants in (stored, asked))
    other = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    if other:
        raise ConfigError(
            f"--resume: the sweep in {out} is another one; they differ in {', '.join(other[:3])}. Give --resume "
            "and --out alone to go on with it, or choose another --out"
        )


def _plan(variants: Sequence[Variant]) -> dict[str, Any]:
    return {
        "variants": [
            {"name": v.name, "values": v.values, "settings": v.settings.model_dump(mode="json")} for v in variants
        ]
    }


def _stored(out: Path) -> list[Variant]:
    from side4video.training.files import read_json

    try:
        return [
            Variant(entry["name"], dict(entry["values"]), load_settings(entry["settings"]))
            for entry in read_json(out / PLAN)["variants"]
        ]
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{out / PLAN}: damaged: {error}") from error


def _say_plan(groups: Sequence[Sequence[Variant]], count: int) -> None:
    passes = f"{len(groups)} frozen pass{'es' * (len(groups) != 1)}"
    note(f"{count} variant{'s' * (count != 1)} over {passes} of the training set an epoch")
    for number, group in enumerate(groups, start=1):
        settings = group[0].settings
        epochs = sorted({variant.settings.optim.epochs for variant in group})
        shown = " or ".join(str(value) for value in epochs)
        note(f"pass {number}: {settings.backbone.name}, {settings.data.num_frames} frames, {shown} epochs")
        for variant in group:
            note(f"  {variant.name}")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
