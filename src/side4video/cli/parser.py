"""The argument parser of one command: jsonargparse with our errors, our help, and settings as flags.

The values of settings stay text here and are checked in `config/load.py`, so that a flag, a `key=value` and a recipe
give the same message. jsonargparse lists them in the help and reads the command's own options.
"""

from __future__ import annotations

import argparse
import re
from argparse import SUPPRESS
from collections.abc import Container, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from side4video.config.describe import describe_allowed, known_settings, setting_groups, unknown_setting
from side4video.config.load import is_override
from side4video.errors import ConfigError, nearest_names

_WRONG_TYPE = re.compile(r'Parser key "([\w.]+)":\s+(?:Expected an? )?(.*?)\.? Got value: (.*)', re.DOTALL)
_NO_VALUE = re.compile(r"^argument (\S+): expected one argument$")
_TYPE_NAMES = {"<class 'int'>": "a whole number", "<class 'float'>": "a number", "<class 'str'>": "text"}
_NOT_SET: Any = SUPPRESS


class CommandParser(ArgumentParser):
    """The parser of one command.

    Positional words may stand anywhere between the options, and a wrong word raises `ConfigError` instead of ending the
    process.
    """

    def __init__(self, *, prog: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._takes_no_value: set[str] = {"-h", "--help"}
        self._flags: list[str] = ["--help"]
        self._settings: dict[str, str] = {}
        self._keys: set[str] = set()

    def add_switch(self, *names: str, help: str) -> None:
        """An option without a value."""
        self._takes_no_value.update(names)
        self._flags.extend(names)
        self.add_argument(*names, action="store_true", help=help)

    def add_option(self, *names: str, help: str, **kwargs: Any) -> None:
        """An option with a value."""
        self._flags.extend(names)
        self.add_argument(*names, help=help, **kwargs)

    def add_common(self) -> None:
        """The switches that every command has."""
        self.add_switch("--json", help="print one JSON value on standard output and nothing else there")
        self.add_switch("--debug", help="show the traceback of an error")

    def add_settings(self, short: Mapping[str, str], *, only: Container[str] | None = None) -> None:
        """Settings of the schema as flags, all or `only` some.

        `short` maps extra flags to dotted names (`--lr` to `optim.lr`).
        """
        aliases = {dotted: flag for flag, dotted in short.items()}
        wanted = {key.partition(".")[0] for key in known_settings() if only is None or key in only}
        groups = {
            name: self.add_argument_group(f"{name}.*", f"{about}.")
            for name, about in setting_groups().items()
            if name in wanted
        }
        for dotted, field in known_settings().items():
            if only is not None and dotted not in only:
                continue
            self._keys.add(dotted)
            if f"--{dotted}" in self._flags:  # the command has an option of this name: the setting is key=value only
                continue
            names = [f"--{dotted}", *([aliases[dotted]] if dotted in aliases else [])]
            short_flag = f"Short: {aliases[dotted]}. " if dotted in aliases else ""
            default = "" if field.default is None else f" Default: {_shown(field.default)}."
            # a command that changes some settings of a run starts from that run
            default = default if only is None else " Default: the run's."
            about = " ".join((field.description or "").split())
            text = f"{short_flag}{about} [{describe_allowed(field)}]{default}".replace("%", "%%")
            where = groups.get(dotted.partition(".")[0], self)
            where.add_argument(f"--{dotted}", type=str, default=_NOT_SET, metavar="VALUE", help=text)
            self._flags.extend(names)
            self._settings |= dict.fromkeys(names, dotted)

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """The command's options; what was set of the settings is under `overrides`, a dict of dotted name to text.

        Raises:
            ConfigError: an option that does not exist, lacks its value, or has one of the wrong type.
        """
        ordered, overrides = self._sorted(words)
        options = vars(self.parse_args(ordered).as_flat())
        return argparse.Namespace(**options, overrides=overrides)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message alone: no usage, no traceback."""
        found = _WRONG_TYPE.search(message)
        if found:
            key, expected, value = found.groups()
            flag = f"--{key.replace('_', '-')}"
            shown = f"--{key}" if flag not in self._flags else flag
            message = f"{shown}: must be {_TYPE_NAMES.get(expected, expected)}; got {value!r}"
        message = _NO_VALUE.sub(r"\1: needs a value", message)
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            message = f"{missing.upper()} is missing; {self.usage}"
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = self._unknown(unknown.split()[0])
        raise ConfigError(f"{message}\n(`{self.prog} --help` lists the options)") from (None if found else ex)

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument '{word}'"
        name = word.partition("=")[0]
        close = nearest_names(name, [flag for flag in self._flags if "." not in flag])
        if self._settings and ("." in name or not close):
            return self._unknown_key(name.lstrip("-"))
        return f"unknown option '{name}'{close}"

    def _unknown_key(self, key: str) -> str:
        if key in known_settings():
            allowed = ", ".join(name for name in known_settings() if name in self._keys)
            return f"setting '{key}' cannot be changed here; these can: {allowed}"
        return unknown_setting(key)

    def _sorted(self, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Options first, positional words after them, and settings apart.

        argparse takes only the first run of positional words, and jsonargparse takes an option such as `--data` for the
        whole group of that name.
        """
        options: list[str] = []
        positional: list[str] = []
        overrides: dict[str, str] = {}
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                positional.extend(rest)
                break
            name, equals, value = word.partition("=")
            if self._keys and not word.startswith("-") and is_override(word):
                if name not in self._keys:
                    raise ConfigError(self._unknown_key(name))
                overrides[name] = value
                continue
            if not word.startswith("-") or word == "-":
                positional.append(word)
                continue
            takes_value = name in self._flags and name not in self._takes_no_value
            # whatever follows is the value, unless it is an option: -3 is a value
            if takes_value and not equals and rest and rest[0][:2] != "--":
                equals, value = "=", rest.pop(0)
            if name not in self._settings:
                options.append(f"{name}{equals}{value}")
            elif equals:
                overrides[self._settings[name]] = value
            else:
                self.error(f"{name}: needs a value")
        return [*options, "--", *positional] if positional else options, overrides


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown(item) for item in value)}]"  # pyright: ignore[reportUnknownVariableType]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
