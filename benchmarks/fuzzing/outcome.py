"""What can come of a hostile input, and how a reader's answer becomes one of these outcomes.

    equal     read, and equal to what was drawn or written
    read      read, and it is what the file says now, as a second, simpler reader has it too
    error     an error of ours that names the file
    crash     another exception, or the process died
    hang      over the time limit
    memory    over the memory limit
    silent    frames or values that are not the file's, and nothing said so
    unnamed   an error of ours that does not name the file

Only the first three are allowed.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from side4video.errors import Side4VideoError

ALLOWED = ("equal", "read", "error")
FAILURES = ("crash", "hang", "memory", "silent", "unnamed")
Value = TypeVar("Value")


@dataclass
class Judged:
    """What came of one input. `counts` holds numbers of frames by what they show; `detail` is for a person."""

    outcome: str
    detail: str = ""
    counts: dict[str, int] = field(default_factory=dict[str, int])


class Stopped(Exception):  # noqa: N818 - an outcome on its way to the judge
    """Reading ended with an outcome."""

    def __init__(self, judged: Judged) -> None:
        super().__init__(judged.outcome)
        self.judged = judged


def attempt(read: Callable[[], Value], names: Iterable[Path | str]) -> Value:
    """The value, or the outcome of the exception; an error must name one of `names`, with or without escapes.

    Raises:
        Stopped: with the outcome.
    """
    try:
        return read()
    except Side4VideoError as error:
        text = str(error)
        outcome = "error" if is_named(text, names) else "unnamed"
        raise Stopped(Judged(outcome, f"{type(error).__name__}: {text[:400]}")) from None
    except MemoryError as error:
        raise Stopped(Judged("memory", f"MemoryError: {error}")) from None
    except Exception as error:  # noqa: BLE001 - finding these is the purpose
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        raise Stopped(Judged("crash", f"{type(error).__name__}: {str(error)[:300]}\n{where}")) from None


def is_named(text: str, names: Iterable[Path | str]) -> bool:
    """Whether a message has one of the names in it, and nothing that a terminal would act on."""
    if any(not letter.isprintable() and letter != "\n" for letter in text):
        return False
    return any(form in text for name in names for form in _forms(os.path.basename(os.fspath(name))))  # noqa: PTH119


def _forms(name: str) -> set[str]:
    return {name, repr(name)[1:-1], ascii(name)[1:-1], name.replace("\\", "\\\\")} - {""}
