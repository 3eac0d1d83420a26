"""Settings from a YAML recipe and `key=value` overrides, validated once, with errors that say what is allowed.

Order: the defaults of the schema, then the recipe, then the overrides. Everything that reads settings (commands, a run
folder's config.yaml, Python) comes through here, so that a wrong value gets the same words everywhere.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from side4video.config.describe import known_settings, setting_groups, unknown_setting, wrong_value
from side4video.config.schema import RunSettings
from side4video.errors import ConfigError, nearest_names

RECIPE_FOLDER = Path(__file__).resolve().parent.parent / "recipes"
RECIPE_SUFFIXES = (".yaml", ".yml")

_OVERRIDE = re.compile(r"[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)*")


# what PyYAML raises for odd values under an explicit tag, and for very deep nesting
_ODD_YAML = (AttributeError, TypeError, ValueError, KeyError, OverflowError, RecursionError)


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.2 scalars: `off` and `no` are words, `1e-3` is a number. PyYAML's own loader reads them the other way."""


_RecipeLoader.yaml_implicit_resolvers = {
    letter: [
        (tag, regexp) for tag, regexp in pairs if tag.rsplit(":", 1)[1] not in {"bool", "int", "float", "timestamp"}
    ]
    for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), [*"tTfF"]
)
_RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), [*"-+0123456789"])
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    [*"-+.0123456789"],
)


def load_settings(
    recipe: str | Path | Mapping[str, Any] | None = None,
    overrides: Iterable[str] | Mapping[str, Any] = (),
) -> RunSettings:
    """The settings of a run.

    `recipe` is a YAML file, the name of a shipped recipe, or nested values. `overrides` are `key=value` strings with
    dotted keys (`data.batch_size=16`), or a mapping from dotted keys to values.

    Raises:
        ConfigError: a recipe that cannot be read, a setting that does not exist, or a value that is not allowed.
    """
    if isinstance(recipe, Mapping):
        values, origin = _copied(recipe), "settings"
    elif recipe is not None:
        path = find_recipe(recipe)
        values, origin = read_recipe(path), str(path)
    else:
        values, origin = {}, "settings"
    for key, value in parse_overrides(overrides).items():
        group = values
        *parents, last = key.split(".")
        for parent in parents:
            inner = group.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{origin}: '{parent}' must be a group of settings; got {inner!r}")
            group = cast(dict[str, Any], inner)
        group[last] = value
    return validate_settings(values, origin)


def parse_overrides(overrides: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Overrides as dotted key -> typed value; the last one of a key wins.

    Raises:
        ConfigError: not of the form `key=value`, an unknown key, or a value that is not allowed.
    """
    pairs = overrides.items() if isinstance(overrides, Mapping) else [_split(text) for text in overrides]
    parsed: dict[str, Any] = {}
    for key, value in pairs:
        field = known_settings().get(key)
        if field is None:
            raise ConfigError(unknown_setting(key))
        parsed[key] = _typed(key, field, value) if isinstance(value, str) else value
    return parsed


def is_override(text: str) -> bool:
    """Whether a command-line word has the form `key=value`; an existing path of that name is a path."""
    key, separator, _ = text.partition("=")
    return bool(separator) and _OVERRIDE.fullmatch(key) is not None and not Path(text).exists()


def shipped_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    return {path.stem: path for path in sorted(RECIPE_FOLDER.glob("*.yaml"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by the name of a shipped one.

    Raises:
        ConfigError: there is no such file and no such name.
    """
    path = Path(recipe)
    if path.suffix.lower() in RECIPE_SUFFIXES:
        if path.is_file():
            return path
        raise ConfigError(f"no such recipe file: {path}")
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    listing = f"; shipped recipes: {', '.join(shipped)}" if shipped else "; a recipe is a YAML file (.yaml)"
    raise ConfigError(f"unknown recipe '{recipe}'{nearest_names(str(recipe), shipped) or listing}")


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The nested values of a YAML recipe, not yet validated.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    try:
        values = yaml.load(text, Loader=_RecipeLoader)
    except _ODD_YAML as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a recipe is a mapping of settings (`data:`, `optim:` ...); got {type(values).__name__}"
        )
    return cast(dict[str, Any], values)


def validate_settings(values: Mapping[str, Any], origin: str = "settings") -> RunSettings:
    """Nested values as `RunSettings`.

    Raises:
        ConfigError: every setting that is unknown or not allowed, one a line.
    """
    try:
        return RunSettings.model_validate(values)
    except ValidationError as error:
        lines = list(dict.fromkeys(_explain(detail) for detail in error.errors()))
    prefix = "" if origin == "settings" else f"{origin}: "
    raise ConfigError("\n".join(prefix + line for line in lines))


def dump_settings(settings: RunSettings) -> str:
    """The settings as YAML that `load_settings` reads back to the same values."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(cast(Mapping[str, Any], v)) if isinstance(v, Mapping) else v for k, v in values.items()}


def _split(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not _OVERRIDE.fullmatch(key):
        raise ConfigError(f"an override is key=value, such as data.batch_size=16; got '{text}'")
    return key, value


def _typed(key: str, field: FieldInfo, text: str) -> Any:
    """A word of the command line as the setting's type: lists and null as YAML, everything else as it stands."""
    try:
        loaded = yaml.load(text, Loader=_RecipeLoader)
    except (yaml.YAMLError, *_ODD_YAML):
        loaded = text
    candidates = [loaded if loaded is None or isinstance(loaded, (list, dict)) else text]
    if _takes_list(field.annotation) and candidates == [text]:
        # one word is a list of one where only a list is allowed; words between commas always are one
        words = [word.strip() for word in text.split(",")]
        candidates = [words, text] if "," in text else [text, words]
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    problem: ValidationError | None = None
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            problem = problem or error
    assert problem is not None
    raise ConfigError(wrong_value(key, field, text, problem.errors()[0]))


def _takes_list(annotation: Any) -> bool:
    if get_origin(annotation) in {list, tuple}:
        return True
    return get_origin(annotation) in {Union, types.UnionType} and any(_takes_list(a) for a in get_args(annotation))


def _explain(detail: ErrorDetails) -> str:
    known, groups = known_settings(), setting_groups()
    parts = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        return unknown_setting(".".join(parts))
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in known:
            return wrong_value(key, known[key], _value_at(detail, parts, length), detail)
    key = parts[0] if parts and parts[0] in groups else "settings"
    if detail["type"] == "value_error":
        return f"{key}: {detail['msg'].removeprefix('Value error, ')}"
    return f"{key}: must be a group of settings; got {detail['input']!r}"


def _value_at(detail: ErrorDetails, parts: list[str], length: int) -> Any:
    return detail["input"] if len(parts) == length else f"... {detail['input']} ..."
