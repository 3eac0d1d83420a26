"""`side4video plan`: will it fit, how long will it take, what to change; nothing is downloaded or allocated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import note, say, show_table
from side4video.cli.main import Outcome
from side4video.cli.train import SHORT_FLAGS
from side4video.config.load import RECIPE_SUFFIXES, find_recipe, load_settings, parse_overrides, shipped_recipes
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from side4video.cli.parser import CommandParser
    from side4video.config.schema import RunSettings
    from side4video.memory.estimate import StepEstimate
    from side4video.memory.plan import Choice, Plan

USAGE = "[RECIPE] [--memory 12GB | --card NAME] [KEY=VALUE ...] [options]"
EXAMPLES = """  side4video plan --backbone open_clip:ViT-L-14/openai side.width=512 --memory 12GB
  side4video plan recipe.yaml --card rtx-4090 --clips 168913
  side4video plan --backbone open_clip:EVA02-E-14/laion2b_s4b_b115k side.width=576 --batch-size 16 --json"""
DEFAULT_CLASSES = 400


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe (.yaml), or the name of a shipped one")
    parser.add_option("--memory", metavar="SIZE", help="memory of the card, such as 12GB or 11.5GiB")
    parser.add_option("--card", metavar="NAME", help="a graphics card, for its memory and its speed, such as rtx-4090")
    parser.add_option("--classes", type=int, default=DEFAULT_CLASSES, metavar="K", help="classes of the data set")
    parser.add_option("--clips", type=int, metavar="N", help="training clips, for the time of an epoch")
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
    from side4video.build import estimate_run
    from side4video.memory.cards import find_card
    from side4video.memory.plan import make_plan, parse_bytes

    budget = None if options.memory is None else parse_bytes(options.memory)
    card = None if options.card is None else find_card(options.card)
    if not options.json:
        note("estimating: a training step on tensors without numbers, in each memory mode ...")
    plan = make_plan(
        estimate_run(settings, options.classes),
        memory=settings.memory,
        batch_size=settings.data.batch_size * settings.data.repeated_augmentation,
        budget_bytes=budget,
        card=card,
    )
    if not options.json:
        _show(plan, settings, options.clips)
    return Outcome(value=_value(plan, options.clips))


def _settings(options: argparse.Namespace) -> RunSettings:
    base = None
    if options.recipe is not None:
        known = Path(options.recipe).suffix.lower() in RECIPE_SUFFIXES or options.recipe in shipped_recipes()
        if not known:
            raise ConfigError(f"RECIPE must be a .yaml file or the name of a shipped recipe; got '{options.recipe}'")
        base = find_recipe(options.recipe)
    # `memory` is this command's budget; as a setting it comes from the recipe or as memory=MODE
    return load_settings(base, parse_overrides(options.overrides))


def _value(plan: Plan, clips: int | None) -> dict[str, Any]:
    estimate, seconds = plan.estimate, plan.seconds_per_step
    return {
        "peak_bytes": estimate.peak_bytes,
        "by_cause": estimate.by_cause,
        "host_bytes": estimate.host_bytes,
        "gflops_forward": estimate.flops_forward / 1e9,
        "gflops_step": estimate.flops_step / 1e9,
        "trainable_parameters": estimate.trainable_parameters,
        "fits": plan.asked.fits,
        "budget_bytes": plan.budget_bytes,
        "seconds_per_step": seconds,
        "seconds_per_epoch": _epoch_seconds(plan, clips),
        "suggestions": [choice.as_dict() for choice in plan.choices],
    }


def _epoch_seconds(plan: Plan, clips: int | None) -> float | None:
    seconds = plan.seconds_per_step
    return None if seconds is None or clips is None else seconds * -(-clips // plan.asked.batch_size)


def _show(plan: Plan, settings: RunSettings, clips: int | None) -> None:
    from side4video.memory.plan import RESERVED_BYTES

    estimate, asked = plan.estimate, plan.asked
    data = settings.data
    say(f"{settings.backbone.name}, side width {settings.side.width}")
    say(f"{data.num_frames} frames, batch {asked.batch_size}, memory={asked.memory}")
    say("\nmemory at the peak of a training step")
    show_table(_causes_table(estimate))
    gflops, step = estimate.flops_forward / 1e9, estimate.flops_step / 1e9
    say(f"trained parameters  {estimate.trainable_parameters / 1e6:.2f} M")
    say(f"GFLOPs              {gflops:,.0f} forward, {step:,.0f} a step ({step / gflops:.2f} x forward)")
    if plan.card is not None and plan.seconds_per_step is not None:
        epoch = _epoch_seconds(plan, clips)
        per_epoch = "" if epoch is None else f", {epoch / 3600:.1f} h an epoch"
        say(f"on {plan.card.name:16s} about {plan.seconds_per_step:.2f} s a step{per_epoch}, if decoding keeps up")
    if plan.budget_bytes is not None:
        verdict = "fits" if asked.fits else "does NOT fit"
        reserved = f"{_gib(RESERVED_BYTES)} of them left to the driver and its libraries"
        say(f"{verdict} into {_gib(plan.budget_bytes)} GiB ({reserved})")
    choices = [choice for choice in plan.choices if choice.fits] or list(plan.choices)
    if choices:
        say("\nother choices, best first" if choices[0].fits else "\nother choices; none fits")
        show_table(_choices_table(choices, asked))


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
    own = asked.flops_step / asked.batch_size
    for choice in choices:
        relative = choice.flops_step / choice.batch_size / own
        settings = f"memory={choice.memory} data.batch_size={choice.batch_size}"
        table.add_row(settings, _gib(choice.peak_bytes), f"{relative:.2f} x", "yes" if choice.fits else "no")
    return table


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f}"
