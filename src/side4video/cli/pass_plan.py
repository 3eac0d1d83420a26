"""What several runs share, as a table: backbones, taps, frames and arithmetic, before the work begins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from side4video.streaming.scorers import Scorer


@dataclass(frozen=True)
class PassRow:
    """One run on a pass: GFLOPs of one of its windows or clips, and of the frozen model on as many frames (None where
    its weights rest elsewhere, and are not counted)."""

    number: int
    backbone: str
    run: str
    taps: tuple[int, ...]
    num_frames: int
    side_gflops: float
    frozen_gflops: float | None


def plan_rows(scorers: Sequence[Scorer]) -> list[PassRow]:
    """Who shares a pass with whom, counted without computing anything."""
    from side4video.streaming.cost import clip_cost
    from side4video.streaming.scorers import pass_key

    numbers: dict[object, int] = {}
    rows: list[PassRow] = []
    for scorer in scorers:
        number = numbers.setdefault(pass_key(scorer), len(numbers) + 1)
        cost = clip_cost(scorer)
        rows.append(
            PassRow(
                number,
                scorer.backbone.name,
                scorer.name,
                scorer.side.taps,
                scorer.num_frames,
                cost.side_flops / 1e9,
                None if cost.frozen_flops is None else cost.frozen_flops / 1e9,
            )
        )
    return sorted(rows, key=lambda row: row.number)


def show_plan(rows: Sequence[PassRow]) -> None:
    """The table on standard error."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for name in ("pass", "backbone", "run", "taps", "frames", "frozen GFLOPs", "side GFLOPs", "extra"):
        table.add_column(name, justify="left" if name in ("backbone", "run", "taps") else "right", overflow="fold")
    before = 0
    for row in rows:
        is_first = row.number != before
        before = row.number
        table.add_row(
            str(row.number) if is_first else "",
            row.backbone if is_first else "the same pass",
            row.run,
            _shown(row.taps),
            str(row.num_frames),
            "?" if row.frozen_gflops is None else f"{row.frozen_gflops:.3g}",
            f"{row.side_gflops:.3g}",
            "?" if row.frozen_gflops is None else f"{100 * row.side_gflops / row.frozen_gflops:.0f} %",
        )
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
    num_passes = len({row.number for row in rows})
    passes = "one pass of the frozen model" if num_passes == 1 else f"{num_passes} passes of a frozen model"
    console.print(f"{len(rows)} runs, {passes}; a window or clip of each costs:", highlight=False)
    console.print(table)


def _shown(taps: Sequence[int]) -> str:
    steps = {second - first for first, second in pairwise(taps)}
    if len(taps) > 3 and len(steps) == 1:
        (step,) = steps
        return f"{taps[0]}-{taps[-1]}" if step == 1 else f"{taps[0]}, {taps[1]} ... {taps[-1]}"
    return ", ".join(map(str, taps))
