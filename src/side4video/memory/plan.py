"""Will a run fit, how long will it take, and what to change: several estimates, put in order.

What is asked for comes first. Around it stand the other memory modes at the same batch size, the largest batch of each,
and, when what is asked for does not fit, changes of other settings: those that leave the numbers alone, those that make
them approximate, and those that make another model, in this order. Everything is of one process on one card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from side4video.errors import ConfigError, InputError
from side4video.memory.cards import Card
from side4video.memory.estimate import StepEstimate
from side4video.side.network import MemoryMode

# what a process takes of a card beside its tensors: the driver's context, libraries' workspaces, fragments
RESERVED_BYTES = 700 * 2**20
# a batch beyond this many times the one asked for is no choice, and the line is followed this often
MOST_TIMES, MOST_TRIES = 8, 4
MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}

Kind = Literal["same", "approximate", "another model"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Estimator(Protocol):
    """A training step of some settings, in a memory mode, with a batch size, and with other settings changed."""

    def __call__(
        self, memory: MemoryMode, batch_size: int, changes: Mapping[str, Any] | None = None, /
    ) -> StepEstimate: ...


@dataclass(frozen=True)
class Change:
    """Settings by their dotted names that save memory, and what they do to the result."""

    settings: Mapping[str, Any]
    kind: Kind


@dataclass(frozen=True)
class Choice:
    """Settings that could be used instead, and what they would need.

    `kind` says what becomes of the result at this batch size; another batch size is another training wherever batch
    norm or a contrastive loss ties clips together.
    """

    memory: MemoryMode
    batch_size: int
    peak_bytes: int
    flops_step: int
    fits: bool
    changes: tuple[tuple[str, Any], ...] = ()
    kind: Kind = "same"

    @property
    def settings(self) -> dict[str, Any]:
        """What to set, by dotted name."""
        return {"memory": self.memory, "data.batch_size": self.batch_size, **dict(self.changes)}

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "settings": self.settings,
            "peak_bytes": self.peak_bytes,
            "gflops_step": self.flops_step / 1e9,
            "fits": self.fits,
            "result": self.kind,
        }


@dataclass(frozen=True)
class Plan:
    """The estimate of what was asked for, and other choices, best first. Without a budget everything fits.

    `modes` are the estimates of every memory mode at the batch size that was asked for.
    """

    asked: Choice
    estimate: StepEstimate
    choices: tuple[Choice, ...]
    budget_bytes: int | None
    card: Card | None
    modes: Mapping[MemoryMode, StepEstimate]

    @property
    def seconds_per_step(self) -> float | None:
        """Time of a step on the card; `None` without one."""
        return None if self.card is None else self.estimate.seconds(self.card)

    @property
    def largest_batch(self) -> Choice | None:
        """Of what fits without changing the model or its numbers, the largest batch; `None` when nothing fits."""
        fitting = [choice for choice in (self.asked, *self.choices) if choice.fits and choice.kind == "same"]
        return max(fitting, key=lambda choice: (choice.batch_size, -choice.flops_step), default=None)

    def extra_arithmetic(self, memory: MemoryMode) -> float:
        """How much more a mode computes than memory=fast, as a share."""
        return self.modes[memory].flops_step / self.modes["fast"].flops_step - 1

    def extra_seconds(self, memory: MemoryMode) -> float | None:
        """How much longer a mode's step takes on the card than memory=fast, as a share; `None` without one."""
        if self.card is None:
            return None
        return self.modes[memory].seconds(self.card) / self.modes["fast"].seconds(self.card) - 1


def make_plan(
    estimate: Estimator,
    *,
    memory: MemoryMode,
    batch_size: int,
    budget_bytes: int | None = None,
    card: Card | None = None,
    changes: Sequence[Change] = (),
) -> Plan:
    """Estimate what is asked for and what else there is. Without a budget, the card's memory is the budget.

    The peak is a straight line in the batch size (each clip adds the same), so two estimates give a mode's largest
    batch; that one is then estimated itself. `changes` are looked at when what is asked for does not fit.
    """
    if budget_bytes is None and card is not None:
        budget_bytes = int(card.memory_gib * 2**30)
    found: dict[MemoryMode, StepEstimate] = {mode: estimate(mode, batch_size) for mode in MODES}
    choices: list[Choice] = []
    for mode in MODES:
        if mode != memory:
            choices.append(_choice(found[mode], mode, batch_size, budget_bytes))
        if budget_bytes is not None:
            largest = _largest_batch(estimate, mode, batch_size, found[mode], budget_bytes)
            # a clip more or less is no choice
            if largest is not None and abs(largest.batch_size - batch_size) > batch_size // 8:
                choices.append(largest)
    asked = _choice(found[memory], memory, batch_size, budget_bytes)
    if not asked.fits:
        choices += [_changed(estimate, change, memory, batch_size, budget_bytes) for change in changes]
    return Plan(asked, found[memory], tuple(_best_first(choices, asked)), budget_bytes, card, found)


def choose(
    estimate: Callable[[MemoryMode, int], StepEstimate], *, batch_size: int, budget_bytes: int, may_shrink: bool = True
) -> tuple[Choice, tuple[Choice, ...]]:
    """The fastest memory mode that fits at this batch size, and the ones before it that do not.

    When none fits, with `may_shrink`, the largest batch that fits in the mode that needs least.

    Raises:
        ConfigError: nothing fits; the message names the smallest need.
    """
    tried: list[Choice] = []
    for mode in MODES:
        found = estimate(mode, batch_size)
        choice = _choice(found, mode, batch_size, budget_bytes)
        if choice.fits:
            return choice, tuple(tried)
        tried.append(choice)
    least = min(tried, key=lambda choice: choice.peak_bytes)
    one = _choice(estimate(least.memory, 1), least.memory, 1, budget_bytes) if batch_size > 1 else least
    if may_shrink and one.fits:
        largest = _largest_batch(estimate, least.memory, batch_size, estimate(least.memory, batch_size), budget_bytes)
        return (one if largest is None else largest), tuple(tried)
    smallest, clips = (one, "one clip") if may_shrink else (least, f"a batch of {batch_size}")
    needed = smallest.peak_bytes + RESERVED_BYTES
    raise ConfigError(
        f"memory: {budget_bytes / 2**30:.2f} GiB are too few: the smallest need is {needed / 2**30:.2f} GiB, for "
        f"{clips} with memory={smallest.memory} ({RESERVED_BYTES / 2**30:.2f} of them for the driver and its libraries)"
    )


def parse_bytes(text: str, *, words: Sequence[str] = ()) -> int:
    """A number of bytes from text such as `12GB` (powers of ten), `11.5 GiB` (powers of two) or `800MB`.

    `words` are allowed too where this is called, and belong into the message.

    Raises:
        InputError: not such a text, or not positive.
    """
    others = f", or {', '.join(words)}" if words else ""
    plain = text.strip().lower().replace(" ", "")
    number = plain.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = plain[len(number) :]
    try:
        value = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        raise InputError(f"memory: must be a size such as 12GB, 11.5GiB or 800MB{others}; got {text!r}") from None
    if not 0 < value < 2**60:
        raise InputError(f"memory: must be a size above zero, such as 12GB; got {text!r}")
    return int(value)


def _choice(
    estimate: StepEstimate, memory: MemoryMode, batch_size: int, budget_bytes: int | None, change: Change | None = None
) -> Choice:
    fits = budget_bytes is None or estimate.peak_bytes + RESERVED_BYTES <= budget_bytes
    choice = Choice(memory, batch_size, estimate.peak_bytes, estimate.flops_step, fits)
    if change is None:
        return choice
    return Choice(
        memory, batch_size, choice.peak_bytes, choice.flops_step, fits, tuple(change.settings.items()), change.kind
    )


def _changed(
    estimate: Estimator, change: Change, memory: MemoryMode, batch_size: int, budget_bytes: int | None
) -> Choice:
    """The change in the mode that was asked for when that fits, else in the one that saves most."""
    choice = _choice(estimate(memory, batch_size, change.settings), memory, batch_size, budget_bytes, change)
    if choice.fits or memory == MODES[-1]:
        return choice
    return _choice(estimate(MODES[-1], batch_size, change.settings), MODES[-1], batch_size, budget_bytes, change)


def _largest_batch(
    estimate: Callable[[MemoryMode, int], StepEstimate],
    memory: MemoryMode,
    batch_size: int,
    at_batch: StepEstimate,
    budget_bytes: int,
) -> Choice | None:
    """The largest batch of a mode that fits, up to `MOST_TIMES` the one asked for; `None` when no clip does."""
    low, low_peak = 1, (at_batch if batch_size == 1 else estimate(memory, 1)).peak_bytes
    high, high_peak = (2, estimate(memory, 2).peak_bytes) if batch_size == 1 else (batch_size, at_batch.peak_bytes)
    room = budget_bytes - RESERVED_BYTES
    for _ in range(MOST_TRIES):
        slope = max((high_peak - low_peak) / (high - low), 1.0)
        largest = min(low + int((room - low_peak) // slope), batch_size * MOST_TIMES)
        if largest < 1:
            return None
        choice = _choice(estimate(memory, largest), memory, largest, budget_bytes)
        if choice.fits:
            return choice
        if largest == low:
            return None
        high, high_peak = largest, choice.peak_bytes
    return None


def _best_first(choices: list[Choice], asked: Choice) -> list[Choice]:
    """What fits before what does not; the same numbers before others; then the batch nearest to the one asked for, from
    below; fewer changes; less arithmetic."""

    def badness(choice: Choice) -> tuple[bool, int, int, int, float]:
        short = max(0, asked.batch_size - choice.batch_size)
        arithmetic = choice.flops_step / choice.batch_size
        return not choice.fits, KINDS.index(choice.kind), short, len(choice.changes), arithmetic

    return sorted(choices, key=badness)
