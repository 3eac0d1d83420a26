"""`side4video train`: settings from a recipe, flags and `key=value`, then one training run in a new folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.backbones.catalog import LIBRARIES, TINY, suggest
from side4video.cli.console import is_first_process, note, say
from side4video.cli.main import Outcome
from side4video.config.describe import known_settings
from side4video.config.load import (
    RECIPE_SUFFIXES,
    find_recipe,
    load_settings,
    parse_overrides,
    read_recipe,
    shipped_recipes,
)
from side4video.config.paths import LOOKED_UP, locate_data
from side4video.errors import ConfigError, DataError, nearest_names

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
    from side4video.config.schema import RunSettings

USAGE = "SOURCE --out RUN [KEY=VALUE ...] [options]"
EXAMPLES = """  side4video train clips/ --out runs/mine
  side4video train train.csv --val val.csv --out runs/mine --backbone timm:vit_small_patch14_dinov2.lvd142m
  side4video train clips/ --out runs/wide side.width=512 optim.lr=5e-4 data.num_frames=16
  side4video train recipe.yaml --out runs/paper data.train=clips/train.csv
  side4video train ssv2-b16 data.root=/data/ssv2 --out runs/ssv2-b16
  side4video train --task retrieval captions.jsonl --out runs/search --backbone open_clip:ViT-B-16/openai
  side4video train clips/ --out runs/mine --memory 12GB
  side4video train clips/ --out runs/mine --cache /data/cache --yes
  side4video train --out runs/mine --resume"""

SHORT_FLAGS = {
    "--backbone": "backbone.name",
    "--weights": "backbone.weights",
    "--val": "data.val",
    "--num-frames": "data.num_frames",
    "--batch-size": "data.batch_size",
    "--epochs": "optim.epochs",
    "--lr": "optim.lr",
    "--devices": "train.devices",
    "--seed": "train.seed",
}
CACHE_FLAG = {"--cache": "cache.dir"}


MEMORY_MODES = ("fast", "balanced", "lean", "smallest")
_SHOWN_BROKEN = 20


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a folder of class folders, a list file, a recipe (.yaml), or the name of a shipped recipe; in retrieval "
        "a CSV or JSONL file with video,caption[,start,end]",
    )
    parser.add_option("--out", metavar="RUN", help="the folder of this run; it must be new or empty (see --resume)")
    parser.add_option("--recipe", metavar="NAME|FILE", help="settings to start from, when SOURCE is a data set")
    parser.add_switch("--resume", help="go on where the run in RUN stopped; starts it when nothing is there yet")
    parser.add_option(
        "--memory",
        metavar="SIZE|MODE",
        help="memory of the card, such as 12GB or 11.5GiB: the fastest memory mode that fits is chosen before anything "
        "is loaded, and, where none fits, the largest batch that does; or the mode itself. "
        f"{known_settings()['memory'].description}",
    )
    parser.add_switch("--yes", help="write the feature cache of --cache without asking")
    parser.add_common()
    parser.add_settings(SHORT_FLAGS | CACHE_FLAG)


def run(options: argparse.Namespace) -> Outcome:
    """Train.

    Raises:
        ConfigError: a setting is wrong, the run folder is in use, or a resumed run is asked to be another one.
        DataError: the data set cannot be used.
    """
    if options.out is None:
        raise ConfigError("--out is missing: the folder for this run, such as --out runs/mine")
    out = Path(options.out)
    if options.memory in MEMORY_MODES:
        options.overrides = {**options.overrides, "memory": options.memory}
        options.memory = None
    going_on = options.resume and (out / "config.yaml").is_file()
    if going_on:
        settings = resumed_settings(out, options.source, options.recipe, options.overrides)
    else:
        if options.resume and options.source is None and options.recipe is None and not options.overrides:
            raise ConfigError(f"--resume: there is no run in {out} (no config.yaml), and no SOURCE to start one from")
        settings = settings_from(options.source, options.recipe, options.overrides)
        _refuse_used_folder(out, resume=options.resume)
    _check_paths(settings)
    return _train(settings, out, options, going_on=going_on)


def settings_from(source: str | None, recipe: str | None, overrides: dict[str, Any]) -> RunSettings:
    """The settings that the words of a command mean.

    Raises:
        ConfigError: a setting is wrong, or SOURCE is none of the things it can be.
    """
    base, typed = _given(source, recipe, overrides)
    settings = locate_data(load_settings(base, typed))
    if settings.data.train is None:
        raise ConfigError(_no_data(settings))
    return settings


def resumed_settings(out: Path, source: str | None, recipe: str | None, overrides: dict[str, Any]) -> RunSettings:
    """The stored settings of the run in `out`, with what the command says again in its place.

    Whether a run may go on with them is for `training` to say. What the command leaves out, or leaves to `auto`, stays.

    Raises:
        ConfigError: a setting is wrong.
    """
    stored = load_settings(out / "config.yaml")
    base, typed = _given(source, recipe, overrides)
    asked = locate_data(load_settings(base, typed))
    said = set(typed) | (_dotted(read_recipe(base), "") if base is not None else set[str]())
    changed = {key: _at(asked, key) for key in said if not _same(key, _at(asked, key), _at(stored, key))}
    return load_settings(out / "config.yaml", changed)


def _given(source: str | None, recipe: str | None, overrides: dict[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """The recipe's file, if any, and the typed overrides, with SOURCE in the place it belongs."""
    typed = parse_overrides(overrides)
    base = find_recipe(recipe) if recipe is not None else None
    if source is None:
        return base, typed
    path = Path(source)
    named_recipe = not path.exists() and source in shipped_recipes()
    if path.suffix.lower() in RECIPE_SUFFIXES or named_recipe:
        if base is not None:
            raise ConfigError(f"two recipes: {source} and --recipe {recipe}; SOURCE is then the data set")
        return find_recipe(source), typed
    if not path.exists():
        hint = nearest_names(source, shipped_recipes()) or "; it is no shipped recipe's name either"
        raise ConfigError(f"no such folder, list file or recipe: '{source}'{hint}")
    if typed.get("data.train", source) != source:
        raise ConfigError(f"two data sets: SOURCE {source} and data.train={typed['data.train']}; give one of them")
    return base, {"data.train": source, **typed}


def _no_data(settings: RunSettings) -> str:
    what = (
        "a CSV or JSONL file with video,caption"
        if settings.task == "retrieval"
        else "a folder of class folders or a list file"
    )
    return f"no data: name {what} as SOURCE, or set data.train=PATH"


def _refuse_used_folder(out: Path, *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; a run needs a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if resume:
        raise ConfigError(f"--resume: {out} holds files but no run (no config.yaml); choose another --out")
    if (out / "config.yaml").is_file():
        raise ConfigError(f"{out} holds a run already; go on with it: --resume, or choose another --out")
    raise ConfigError(f"{out} is not empty, and nothing is overwritten; choose another --out")


def _check_paths(settings: RunSettings) -> None:
    for key in ("train", "val", "root", "classes"):
        value = getattr(settings.data, key)
        if value is not None and not Path(value).exists():
            raise DataError(f"data.{key}: no such file or folder: {value}{_where_looked(settings, key)}")
    name = settings.backbone.name
    if name not in {"auto", TINY} and name.partition(":")[0] not in LIBRARIES:
        raise ConfigError(
            f"backbone.name: unknown backbone '{name}'{suggest(name)} "
            f"Allowed: auto, {TINY}, timm:NAME, open_clip:ARCH/PRETRAINED; `side4video backbones` lists them"
        )
    weights = settings.backbone.weights
    if weights is not None and not Path(weights).is_file():
        raise ConfigError(f"backbone.weights: no such file: {weights}")


def _where_looked(settings: RunSettings, key: str) -> str:
    value, root = getattr(settings.data, key), settings.data.root
    if key not in LOOKED_UP or Path(value).is_absolute():
        return ""
    return "; data.root=FOLDER says where lists are" if root is None else f", neither here nor in data.root={root}"


def _tell_faster_settings(settings: RunSettings, *, chose_memory: bool) -> None:
    """On a CPU: what would make steps faster and was left as it is. Who chose a memory mode or a budget has reasons."""
    from side4video.backbones.precision import cpu_has_bf16
    from side4video.training.runtime import choose_accelerator

    if choose_accelerator(settings.train.accelerator) != "cpu" or not is_first_process():
        return
    faster: list[str] = []
    if settings.train.precision == "auto" and cpu_has_bf16():
        faster.append("train.precision=bf16 (this processor has units for it; the side network is trained in fp32 now)")
    if settings.memory != "fast" and not chose_memory:
        faster.append(f"memory=fast (nothing is computed twice, as memory={settings.memory} does)")
    if faster:
        note(f"faster on a CPU: {', '.join(faster)}")


def _train(settings: RunSettings, out: Path, options: argparse.Namespace, *, going_on: bool) -> Outcome:
    # torch comes in here: everything above is checked without it
    from side4video.build import train_run
    from side4video.training.progress import make_progress

    json = options.json
    if options.memory is not None:
        from side4video.cli.memory_choice import choose_memory

        settings = choose_memory(settings, options.memory, going_on=going_on)
    dialog = None
    if settings.cache.dir is not None:
        from side4video.cli.cache_dialog import AskInTerminal

        dialog = AskInTerminal(yes=options.yes)
    if not going_on:
        chose_memory = options.memory is not None or "memory" in options.overrides
        _tell_faster_settings(settings, chose_memory=chose_memory)
    result = train_run(settings, out, resume=going_on, progress=make_progress(), cache_dialog=dialog)
    if not result.is_main:
        return Outcome()
    for clip in result.broken[:_SHOWN_BROKEN]:
        note(f"could not be read: {clip.path}: {clip.reason}")
    if len(result.broken) > _SHOWN_BROKEN:
        note(f"... and {len(result.broken) - _SHOWN_BROKEN} more; {out / 'broken.json'} lists them")
    if not json:
        retrieval = settings.task == "retrieval"
        name, score = ("text-to-video R@1", result.t2v_r1) if retrieval else ("top-1", result.top1)
        best = "" if score is None else f", validation {name} {100 * score:.1f} % (epoch {result.best_epoch})"
        epochs = f"{result.epochs} epoch{'s' * (result.epochs != 1)}"
        say(f"{out}: {epochs}, {result.steps} steps, {_duration(result.seconds)}{best}")
    note(f"next: side4video evaluate {out}")
    if settings.task == "recognition":
        note(f"      side4video predict {out} VIDEO")
    value = {
        "out": str(result.out),
        "epochs": result.epochs,
        "steps": result.steps,
        **({"t2v_r1": result.t2v_r1} if settings.task == "retrieval" else {"top1": result.top1}),
        "best_epoch": result.best_epoch,
        "broken": len(result.broken),
        "seconds": result.seconds,
    }
    return Outcome(value=value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _dotted(values: dict[str, Any], prefix: str) -> set[str]:
    names: set[str] = set()
    for key, value in values.items():
        names |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return names


def _at(settings: RunSettings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _same(key: str, asked: Any, stored: Any) -> bool:
    if (
        key in {"data.train", "data.val", "data.classes", "data.root", "backbone.weights", "cache.dir"}
        and asked
        and stored
    ):
        return Path(asked).resolve() == Path(stored).resolve()
    # the stored settings are resolved: an `auto` has become a value there
    return asked in (stored, "auto")
