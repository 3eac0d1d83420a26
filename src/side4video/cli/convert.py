"""`side4video convert`: the authors' checkpoints to run folders, and runs to the authors' key names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import note, say
from side4video.cli.main import Outcome
from side4video.config.describe import known_settings
from side4video.config.load import find_recipe, parse_overrides, read_recipe
from side4video.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from side4video.cli.conversion import Converted
    from side4video.cli.parser import CommandParser

USAGE = "SOURCE OUT [options] [KEY=VALUE ...]"
EXAMPLES = """  side4video convert ssv2_b16.pt runs/ssv2 --recipe ssv2-b16 data.root=/data/ssv2 --classes classes.csv
  side4video convert k400_e14.pt runs/k400-e14 --recipe k400-e14-16f --weights EVA02_CLIP_E_psz14.pt
  side4video convert msrvtt.pt runs/msrvtt --keep-backbone
  side4video convert runs/mine mine.pt --to official"""

SHORT_FLAGS = {
    "--backbone": "backbone.name",
    "--weights": "backbone.weights",
    "--classes": "data.classes",
    "--num-frames": "data.num_frames",
}
_GROUPS = ("backbone", "data", "retrieval")
# the checkpoint itself says these
_SAID_BY_KEYS = frozenset({"retrieval.interaction", "retrieval.interaction_width", "retrieval.video_mask"})
CHANGEABLE = frozenset(key for key in known_settings() if key.partition(".")[0] in _GROUPS) - _SAID_BY_KEYS
_SUFFIXES = (".pt", ".pth", ".safetensors")


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("source", metavar="SOURCE", help="a released checkpoint (.pt, .safetensors), or a run folder")
    parser.add_argument("out", metavar="OUT", help="the new run folder, or with --to official the file to write")
    parser.add_option(
        "--to", default="run", metavar="WHAT", help="run: to a run folder. official: to the authors' key names."
    )
    parser.add_option("--task", metavar="TASK", help="recognition or retrieval; found out when it is left out")
    parser.add_option("--recipe", metavar="NAME|FILE", help="where data settings and the backbone's name come from")
    parser.add_switch(
        "--keep-backbone", help="store the checkpoint's own frozen weights in the run instead of comparing them"
    )
    parser.add_option("--num-heads", type=int, metavar="N", help="heads of the frozen blocks. Default: 64 wide.")
    parser.add_option("--text-heads", type=int, metavar="N", help="heads of the text tower. Default: 64 wide.")
    parser.add_option(
        "--side-blocks", metavar="I,J,...", help="the tapped frozen blocks, from 0. Default: evenly spaced."
    )
    parser.add_common()
    parser.add_settings(SHORT_FLAGS, only=CHANGEABLE)


def run(options: argparse.Namespace) -> Outcome:
    """Convert.

    Raises:
        ConfigError: an option has a value that is not allowed, or OUT is in use.
        CheckpointError: SOURCE is damaged, of another kind, or does not fit.
    """
    source, out = Path(options.source), Path(options.out)
    if options.to not in ("run", "official"):
        raise ConfigError(f"--to: must be run or official; got '{options.to}'")
    if options.task not in (None, "recognition", "retrieval"):
        raise ConfigError(f"--task: must be recognition or retrieval; got '{options.task}'")
    if not source.exists():
        raise ConfigError(f"no such file or folder: '{source}'")
    if options.to == "official":
        return _to_official(source, out, options)
    if source.is_dir():
        raise ConfigError(f"'{source}' is a folder, not a checkpoint; a run is converted with --to official")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"OUT {out}: is there already, and nothing is overwritten; choose another")
    values = _values(options)
    side_blocks = _side_blocks(options.side_blocks)

    # torch comes in here: everything above is checked without it
    from side4video.cli.conversion import Hints, convert_to_run

    hints = Hints(num_heads=options.num_heads, side_blocks=side_blocks, text_heads=options.text_heads)
    done = convert_to_run(source, out, values, task=options.task, hints=hints, keep_backbone=options.keep_backbone)
    if not options.json:
        _show(done)
    note(f"next: side4video evaluate {out} --data LIST")
    return Outcome(value=_as_json(done))


def _to_official(source: Path, out: Path, options: argparse.Namespace) -> Outcome:
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"OUT must end in {', '.join(_SUFFIXES)}; got '{out}'")
    if out.exists():
        raise ConfigError(f"OUT {out}: is there already, and nothing is overwritten; choose another")
    if not source.is_dir():
        raise CheckpointError(f"{source}: not a run folder")

    from side4video.cli.conversion import convert_to_official

    done = convert_to_official(source, out)
    if not options.json:
        say(f"{out}: {done['tensors']} tensors, {done['task']}, {done['dialect']} names")
    for text in done["notes"]:
        note(text)
    return Outcome(value=done)


def _values(options: argparse.Namespace) -> dict[str, Any]:
    """Nested settings of the recipe's data and backbone, with what the command says in their place."""
    recipe = {} if options.recipe is None else read_recipe(find_recipe(options.recipe))
    values: dict[str, Any] = {group: dict(recipe.get(group) or {}) for group in _GROUPS}
    for key, value in parse_overrides(options.overrides).items():
        group, _, name = key.partition(".")
        values[group][name] = value
    return values


def _side_blocks(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--side-blocks: must be numbers with commas between them; got '{text}'") from None


def _as_json(done: Converted) -> dict[str, Any]:
    compared = done.comparison
    return {
        "out": str(done.out),
        "task": done.task,
        "dialect": done.dialect,
        "backbone": done.backbone,
        "kept_backbone": done.kept_backbone,
        "trained": done.trained,
        "compared": None if compared is None else {"equal": compared.equal, "rounded": compared.rounded},
        "unused": done.unused,
        "num_classes": done.num_classes,
        "side_width": done.side_width,
        "side_blocks": list(done.side_blocks),
    }


def _show(done: Converted) -> None:
    classes = "" if done.num_classes is None else f", {done.num_classes} classes"
    say(f"{done.out}: {done.task}, {done.dialect} dialect, side {done.side_width} after {len(done.side_blocks)} blocks")
    say(f"  {done.trained} tensors of side network and head{classes}")
    if done.comparison is None:
        say(f"  frozen part kept in the run as {done.backbone}")
    else:
        rounded = f", {done.comparison.rounded} of them rounded to half precision" if done.comparison.rounded else ""
        say(f"  {done.comparison.compared} frozen tensors are those of {done.backbone}{rounded}: left out")
    for name, reason in done.unused.items():
        say(f"  unused: {name} ({reason})")
