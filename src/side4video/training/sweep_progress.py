"""How a sweep shows itself: one bar over all its variants on a terminal, one line an epoch and variant everywhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from side4video.tasks.base import TrainedModel
from side4video.training.progress import NoProgress, ProgressView, StepNews, epoch_line


class SweepProgress:
    """Silent; `member` gives each variant its view."""

    def member(self, name: str) -> ProgressView:  # noqa: ARG002
        """What the training loop of a variant talks to."""
        return NoProgress()

    def validate(self) -> None:
        """All variants are validated."""

    def close(self) -> None:
        """A group of variants is done, for whatever reason."""


class ShownSweep(SweepProgress):
    """On `stream` (standard error by default)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        shown = stream or sys.stderr
        self.console = Console(file=shown, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._is_terminal = shown.isatty()

    def member(self, name: str) -> ProgressView:
        return _MemberView(self, name)

    def validate(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, news="validating")

    def add(self, batches: int, done: int) -> None:
        """A variant joins the bar, with `done` of its batches behind it."""
        if not self._is_terminal:
            return
        if self._bar is None:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"))
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self._bar = Progress(
                TextColumn("{task.description}"), *columns, *times, console=self.console, transient=True
            )
            self._task = self._bar.add_task("batches of all variants", total=0, completed=0, news="")
            self._bar.start()
        task = self._bar.tasks[0]
        self._bar.update(self._task, total=(task.total or 0) + batches, completed=task.completed + done)

    def advance(self, batches: int, news: str) -> None:
        """A variant has trained on so many more batches."""
        if self._bar is not None:
            self._bar.update(self._task, advance=batches, news=news)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _MemberView(NoProgress):
    def __init__(self, sweep: ShownSweep, name: str) -> None:
        self._sweep, self._name = sweep, name
        self._epochs = self._done = 0

    def open(self, model: TrainedModel, *, epochs: int, batches: int, batches_done: int) -> None:  # noqa: ARG002
        self._epochs, self._done = epochs, batches_done
        self._sweep.add(batches, batches_done)
        if batches_done:
            self._sweep.console.print(f"{self._name}: resuming after {batches_done} of {batches} batches")

    def step(self, news: StepNews) -> None:
        self._sweep.advance(news.batches_done - self._done, f"loss {news.loss:.3f} {news.clips_per_second:.1f} clips/s")
        self._done = news.batches_done

    def epoch(self, row: dict[str, Any]) -> None:
        self._sweep.console.print(f"{self._name}: {epoch_line(row, self._epochs)}")
