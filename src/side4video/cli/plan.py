"""`side4video plan`: will it fit, how long will it take, what to change; nothing is downloaded or allocated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import note, say, show_table
from side4video.cli.main import Outcome
from side4video.cli.train import SHORT_FLAGS
from side4video.config.load import RECIPE_SUFFIXES, find_recipe, load_settings, parse_overrides, shipped_recipes
from side4video.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from side4video.build_plan import ClipFacts
    from side4video.cli.parser import CommandParser
    from side4video.config.schema import RunSettings
    from side4video.memory.estimate import StepEstimate
    from side4video.memory.plan import Choice, Plan

USAGE = "[RECIPE] [--memory 12GB | --card NAME] [KEY=VALUE ...] [options]"
EXAMPLES = """  side4video plan --backbone open_clip:ViT-L-14/openai side.width=512 --memory 12GB
  side4video plan recipe.yaml --card rtx-4090 --clips 168913
  side4video plan ssv2-b16 --card rtx-3060
  side4video plan --backbone open_clip:EVA02-E-14/laion2b_s4b_b115k side.width=576 --batch-size 16 --json"""
DEFAULT_CLASSES = 400


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe (.yaml), or the name of a shipped one")
    parser.add_option("--memory", metavar="SIZE", help="memory of the card, such as 12GB or 11.5GiB")
    parser.add_option("--card", metavar="NAME", help="a graphics card, for its memory and its speed, such as rtx-4090")
    parser.add_option("--classes", type=int, default=DEFAULT_CLASSES, metavar="K", help="classes of the data set")
    parser.add_option(
        "--clips",
        type=int,
        metavar="N",
        help="training clips (in retrieval captions), for the time of an epoch; default: the data set's",
    )
    parser.add_common()
    parser.add_settings(SHORT_FLAGS)


def run(options: argparse.Namespace) -> Outcome:
    """Estimate and print.

    Raises:
        ConfigError: a setting is wrong, or RECIPE is none.
        InputError: an unknown card, or a size that is none.
    """
    settings = _settings(options)
    for name in ("classes", "clips"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}: must be at least 1; got {value}")
    # torch comes in here: everything above is checked without it
    from side4video.build_plan import clip_facts, plan_estimator, saving_changes
    from side4video.memory.cards import find_card
    from side4video.memory.plan import make_plan, parse_bytes

    budget = None if options.memory is None else parse_bytes(options.memory)
    card = None if options.card is None else find_card(options.card)
    if not options.json:
        note("estimating: a training step on tensors without numbers, in each memory mode ...")
    # batch sizes count videos, as data.batch_size does
    copies = settings.data.repeated_augmentation if settings.task == "recognition" else 1
    estimate = plan_estimator(settings, options.classes)
    plan = make_plan(
        lambda memory, videos, changes=None: estimate(memory, videos * copies, changes),
        memory=settings.memory,
        batch_size=settings.data.batch_size,
        budget_bytes=budget,
        card=card,
        changes=saving_changes(settings),
    )
    facts = clip_facts(settings)
    items = options.clips if options.clips is not None else _count_items(settings)
    if not options.json:
        _show(plan, facts, settings, items, copies)
    return Outcome(value=_value(plan, facts, settings, items, copies))


def _settings(options: argparse.Namespace) -> RunSettings:
    base = None
    if options.recipe is not None:
        known = Path(options.recipe).suffix.lower() in RECIPE_SUFFIXES or options.recipe in shipped_recipes()
        if not known:
            raise ConfigError(f"RECIPE must be a .yaml file or the name of a shipped recipe; got '{options.recipe}'")
        base = find_recipe(options.recipe)
    # `memory` is this command's budget; as a setting it comes from the recipe or as memory=MODE
    return load_settings(base, parse_overrides(options.overrides))


def _count_items(settings: RunSettings) -> int | None:
    """Items of an epoch, when the data set that the settings name is here."""
    from side4video.build_plan import count_items

    if settings.data.train is None:
        return None
    try:
        return count_items(settings)
    except InputError as error:
        note(f"the data set is not read, so no time of an epoch (--clips N gives it): {error}")
        return None


def _value(plan: Plan, facts: ClipFacts, settings: RunSettings, items: int | None, copies: int) -> dict[str, Any]:
    estimate, seconds = plan.estimate, plan.seconds_per_step
    largest = plan.largest_batch
    return {
        "peak_bytes": estimate.peak_bytes,
        "by_cause": estimate.by_cause,
        "host_bytes": estimate.host_bytes,
        "gflops_forward": estimate.flops_forward / 1e9,
        "gflops_step": estimate.flops_step / 1e9,
        "gflops_frozen": facts.frozen_flops * plan.asked.batch_size * copies / 1e9,
        "frozen_forwards_per_step": _frozen_forwards(plan, facts, copies),
        "trainable_parameters": estimate.trainable_parameters,
        "fits": plan.asked.fits,
        "budget_bytes": plan.budget_bytes,
        "seconds_per_step": seconds,
        "seconds_per_epoch": _epoch_seconds(plan, items),
        "extra_flops_of_modes": {mode: plan.extra_arithmetic(mode) for mode in plan.modes},
        "largest_batch": None if largest is None or plan.budget_bytes is None else largest.as_dict(),
        "cache": {
            "bytes_per_clip": facts.cached.together,
            "bytes_per_clip_int8": facts.cached_int8.together,
            "bytes": None if items is None else facts.cached.together * _cached_clips(settings, items, copies),
        },
        "suggestions": [choice.as_dict() for choice in plan.choices],
    }


def _epoch_seconds(plan: Plan, items: int | None) -> float | None:
    seconds = plan.seconds_per_step
    return None if seconds is None or items is None else seconds * -(-items // plan.asked.batch_size)


def _frozen_forwards(plan: Plan, facts: ClipFacts, copies: int) -> float:
    return plan.estimate.flops_step / (facts.frozen_flops * plan.asked.batch_size * copies)


def _cached_clips(settings: RunSettings, items: int, copies: int) -> int:
    """Clips in the cache of the training set; retrieval stores a video once, whatever its captions are."""
    return items if settings.cache.views == "fixed" else items * int(settings.cache.views) * copies


def _show(plan: Plan, facts: ClipFacts, settings: RunSettings, items: int | None, copies: int) -> None:
    from side4video.memory.plan import RESERVED_BYTES

    estimate, asked = plan.estimate, plan.asked
    data = settings.data
    say(f"{settings.backbone.name}, side width {settings.side.width}")
    say(f"{data.num_frames} frames, batch {asked.batch_size}, memory={asked.memory}")
    say("\nmemory at the peak of a training step")
    show_table(_causes_table(estimate))
    gflops, step = estimate.flops_forward / 1e9, estimate.flops_step / 1e9
    say(f"trained parameters  {estimate.trainable_parameters / 1e6:.2f} M")
    forwards = _frozen_forwards(plan, facts, copies)
    extra = plan.extra_arithmetic(settings.memory)
    say(f"GFLOPs              {gflops:,.0f} forward, {step - gflops:,.0f} backward")
    say(f"a step computes     {forwards:.2f} x one pass of the frozen model, {100 * extra:+.1f} % to memory=fast")
    if plan.card is not None and plan.seconds_per_step is not None:
        epoch = _epoch_seconds(plan, items)
        per_epoch = "" if epoch is None else f", {_duration(epoch)} an epoch of {items:,}"
        say(f"on {plan.card.name:16s} about {plan.seconds_per_step:.2f} s a step{per_epoch}, if decoding keeps up")
    say(f"feature cache       {_cache_line(facts, settings, items, copies)}")
    if plan.budget_bytes is not None:
        verdict = "fits" if asked.fits else "does NOT fit"
        reserved = f"{_gib(RESERVED_BYTES)} of them left to the driver and its libraries"
        say(f"{verdict} into {_gib(plan.budget_bytes)} GiB ({reserved})")
        largest = plan.largest_batch
        if largest is not None:
            settings_ = " ".join(f"{name}={value}" for name, value in largest.settings.items())
            say(f"largest batch that fits: {settings_}")
    choices = [choice for choice in plan.choices if choice.fits] or list(plan.choices)
    if choices:
        say("\nother choices, best first" if choices[0].fits else "\nother choices; none fits")
        show_table(_choices_table(choices, asked))


def _cache_line(facts: ClipFacts, settings: RunSettings, items: int | None, copies: int) -> str:
    own, small = facts.cached.together, facts.cached_int8.together
    if items is None:
        return f"{own / 1e6:.1f} MB a clip, {small / 1e6:.1f} in int8"
    clips = _cached_clips(settings, items, copies)
    return (
        f"{own * clips / 1e9:,.0f} GB for {clips:,} clips ({own / 1e6:.1f} MB each), {small * clips / 1e9:,.0f} in int8"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _causes_table(estimate: StepEstimate) -> Table:
    from rich.table import Table

    table = Table("what")
    table.add_column("GiB", justify="right")
    for cause, num_bytes in estimate.by_cause.items():
        table.add_row(cause, _gib(num_bytes))
    table.add_section()
    table.add_row("together", _gib(estimate.peak_bytes))
    if estimate.host_bytes:
        table.add_row("in host memory", _gib(estimate.host_bytes))
    return table


def _choices_table(choices: list[Choice], asked: Choice) -> Table:
    from rich.table import Table

    table = Table("settings")
    table.add_column("peak GiB", justify="right")
    table.add_column("arithmetic a clip", justify="right")
    table.add_column("fits")
    table.add_column("result")
    own = asked.flops_step / asked.batch_size
    for choice in choices:
        extra = 100 * (choice.flops_step / choice.batch_size / own - 1)
        settings = " ".join(f"{name}={value}" for name, value in choice.settings.items())
        other_batch = "" if choice.batch_size == asked.batch_size else ", another batch"
        result = f"{choice.kind}{other_batch}"
        table.add_row(settings, _gib(choice.peak_bytes), f"{extra:+.1f} %", "yes" if choice.fits else "no", result)
    return table


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f}"
