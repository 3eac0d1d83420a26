"""How a run shows itself: one bar with the time left on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from side4video.tasks.base import TrainedModel
from side4video.training.report import part_reports, part_table


@dataclass(frozen=True)
class StepNews:
    """One optimiser step. `epoch` counts from 0, `batches_done` over the whole run; rates are of all processes.

    `top1` is null where a step has none (retrieval).
    """

    epoch: int
    step: int
    batches_done: int
    loss: float
    top1: float | None
    lr: float
    clips_per_second: float


class ProgressView(Protocol):
    """What the training loop tells whoever shows it; only the first process does."""

    def open(self, model: TrainedModel, *, epochs: int, batches: int, batches_done: int) -> None:
        """Training begins, or goes on after `batches_done` of all `batches`."""
        ...

    def step(self, news: StepNews) -> None:
        """An optimiser step was made."""
        ...

    def validate(self, epoch: int) -> None:
        """Validation begins."""
        ...

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch is over; `row` is its line of the history."""
        ...

    def close(self) -> None:
        """Training is over, for whatever reason."""
        ...


class NoProgress:
    """Shows nothing."""

    def open(self, model: TrainedModel, *, epochs: int, batches: int, batches_done: int) -> None:
        pass

    def step(self, news: StepNews) -> None:
        pass

    def validate(self, epoch: int) -> None:
        pass

    def epoch(self, row: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class LineProgress(NoProgress):
    """The table of what trains, then one line an epoch."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._epochs = 0

    def open(self, model: TrainedModel, *, epochs: int, batches: int, batches_done: int) -> None:
        self._epochs = epochs
        self._console.print(part_table(part_reports(model)))
        if batches_done:
            self._console.print(f"resuming after {batches_done} of {batches} batches")

    def epoch(self, row: dict[str, Any]) -> None:
        self._console.print(epoch_line(row, self._epochs))


class BarProgress(LineProgress):
    """One bar over the whole run; finished epochs stay above it as lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None

    def open(self, model: TrainedModel, *, epochs: int, batches: int, batches_done: int) -> None:
        super().open(model, epochs=epochs, batches=batches, batches_done=batches_done)
        self._task = self._bar.add_task("starting", total=batches, completed=batches_done, news="")
        self._bar.start()

    def step(self, news: StepNews) -> None:
        top1 = "" if news.top1 is None else f" top-1 {news.top1:.1%}"
        text = f"loss {news.loss:.3f}{top1} lr {news.lr:.1e} {news.clips_per_second:.1f} clips/s"
        self._bar.update(
            self._task,
            completed=news.batches_done,
            description=f"epoch {news.epoch + 1}/{self._epochs}",
            news=text,
        )

    def validate(self, epoch: int) -> None:
        self._bar.update(self._task, description=f"validating {epoch + 1}/{self._epochs}")

    def close(self) -> None:
        self._bar.stop()


def make_progress(stream: TextIO | None = None) -> ProgressView:
    """A bar when `stream` (standard error by default) is a terminal, else lines."""
    return BarProgress(stream) if (stream or sys.stderr).isatty() else LineProgress(stream)


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """An epoch of the history in one line."""
    parts = [
        f"epoch {row['epoch']}/{epochs}",
        f"loss {row['train_loss']:.4f}",
        *([f"top-1 {row['train_top1']:.1%}"] if "train_top1" in row else []),
        f"lr {row['lr']:.2e}",
        f"{row['clips_per_second']:.1f} clips/s",
    ]
    if row.get("val_top1") is not None:
        parts.append(f"validation top-1 {row['val_top1']:.1%} loss {row['val_loss']:.4f}")
    if row.get("val_t2v_r1") is not None:
        parts.append(f"validation text-to-video R@1 {row['val_t2v_r1']:.1%} loss {row['val_loss']:.4f}")
    return "  ".join(parts)
