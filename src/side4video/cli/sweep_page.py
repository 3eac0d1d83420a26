"""The comparison page of a sweep: one HTML file with two charts and the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from side4video.cli.charts import Dot, scatter_chart

if TYPE_CHECKING:
    from side4video.build_sweep import SweepRow


def render_sweep(title: str, rows: Sequence[SweepRow], keys: Sequence[str]) -> str:
    """The page as HTML; `keys` are the settings in which the variants differ."""
    from side4video.cli.sweep import ranked
    from side4video.training.report import format_bytes

    ordered = ranked(rows)
    numbers = {row.name: str(place) for place, row in enumerate(ordered, start=1)}
    good = [row for row in ordered if row.error is None and row.score is not None and row.step_bytes is not None]
    unit, scale = ("GiB", 30) if max((row.step_bytes or 0 for row in good), default=0) >= 2**30 else ("MiB", 20)
    charts = [
        (
            "Accuracy against memory",
            [Dot(numbers[row.name], row.name, (row.step_bytes or 0) / 2**scale, row.score or 0.0) for row in good],
            f"{unit} of a training step, alone (plan)",
        ),
        (
            "Accuracy against parameters",
            [Dot(numbers[row.name], row.name, (row.parameters or 0) / 1e6, row.score or 0.0) for row in good],
            "trained parameters, millions",
        ),
    ]
    page = {
        "title": title,
        "subtitle": f"{len(rows)} side networks, {len({row.group for row in rows})} frozen passes an epoch",
        "charts": [
            {"title": name, "svg": scatter_chart(dots, x_name=x_name, y_name="best validation score")}
            for name, dots, x_name in charts
            if dots
        ],
        "keys": list(keys),
        "rows": [
            {
                "number": numbers[row.name],
                "values": [row.values[key] for key in keys] or [row.name],
                "score": "failed" if row.error else _text(row.score, 100, "%", 1),
                "epoch": row.best_epoch,
                "loss": _text(row.train_loss, 1, "", 4),
                "parameters": _text(row.parameters, 1e-6, "M", 2),
                "memory": "" if row.step_bytes is None else format_bytes(row.step_bytes),
                "gflops": _text(row.step_flops, 1e-9, "", 0),
                "group": row.group,
                "error": row.error,
            }
            for row in ordered
        ],
    }
    environment = Environment(
        loader=PackageLoader("side4video.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("sweep.html.j2").render(page=page)


def _text(value: float | None, factor: float, unit: str, digits: int) -> str:
    return "" if value is None else f"{value * factor:,.{digits}f}{f' {unit}' if unit else ''}"
