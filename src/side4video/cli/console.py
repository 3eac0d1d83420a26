"""What a command prints, and where: results on standard output, everything else on standard error.

With `--json` standard output carries exactly one JSON value, whatever a library prints meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

_PROG = "side4video"
_PACKAGE = str(Path(__file__).resolve().parent.parent)


def note(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Something that the person should know, and that stops nothing."""
    note(f"{_PROG}: warning: {text}")


def fail(text: str) -> None:
    """The one message of a command that could not do its work."""
    note(f"{_PROG}: error: {text}")


def say(text: str = "", *, flush: bool = False) -> None:
    """A line of the result; `flush` sends it at once, also into a pipe."""
    print(text, flush=flush)


def show_table(table: Table) -> None:
    """A rich table as part of the result; in a pipe it is as wide as it needs, so that nothing is cut."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(table)


def progress_bar() -> Progress:
    """A bar with counts and time left, on standard error; silent when that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and is_first_process()))


def is_first_process() -> bool:
    """Whether this is the one of several training processes that talks."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank is not None), "0")) == 0


def print_json(value: Any) -> None:
    """The one JSON value of a command. NaN is no JSON, so it is an error here."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2), flush=True)


@contextlib.contextmanager
def results_kept_apart() -> Generator[None]:
    """Send standard output to standard error, for this process and for those it starts, until the block ends."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (io.UnsupportedOperation, ValueError):  # a captured stream, in tests and notebooks
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    saved = os.dup(descriptor)
    try:
        os.dup2(2, descriptor)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)


@contextlib.contextmanager
def quiet_messages(*, debug: bool) -> Generator[None]:
    """Our own log lines and warnings on standard error; other libraries' only with `debug`. As before afterwards."""
    ours, root = logging.getLogger("side4video"), logging.getLogger()
    before = (ours.handlers, ours.level, ours.propagate, root.level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.DEBUG if debug else logging.INFO)
    root.setLevel(logging.INFO if debug else logging.ERROR)

    def show(message: Warning | str, category: type[Warning], filename: str, *_: object) -> None:
        if debug or filename.startswith(_PACKAGE):
            warn(str(message) if not debug else f"{message} ({category.__name__}, {filename})")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        ours.handlers, level, ours.propagate, root_level = before
        ours.setLevel(level)
        root.setLevel(root_level)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{_PROG}: {record.levelname.lower()}: {text}"
