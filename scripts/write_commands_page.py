"""Writes `docs/commands.md`: every command, its options and every setting, from the parsers themselves.

    python scripts/write_commands_page.py

A test compares the page with what this script would write.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from side4video.cli.main import COMMANDS, Command, make_parser
from side4video.cli.parser import CommandParser
from side4video.config.describe import describe_allowed, known_settings, setting_groups

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
COMMON = ("--help", "--json", "--debug")

HEAD = """# Every command and every setting

<!-- written by scripts/write_commands_page.py -->

| command | what it does |
|---|---|
{commands}

Every command has `--help`, `--json` (one JSON value on standard output and nothing else there; progress and messages go
to standard error) and `--debug` (the traceback of an error). Exit codes: 0 done; 1 done, and something is wrong with
the data or the result; 2 bad input; 130 after Ctrl-C. Settings are given as `key=value` or `--key value`, and are
checked before anything starts.
"""


def page() -> str:
    """The whole page."""
    rows = "\n".join(f"| [`{c.name}`](#{c.name}) | {cell(c.summary)} |" for c in COMMANDS)
    parts = [HEAD.format(commands=rows), *(section(command) for command in COMMANDS), settings_section()]
    return "\n".join(parts)


def section(command: Command) -> str:
    """A command: usage, examples, its own options, and which settings it takes."""
    module, parser = make_parser(command)
    known = known_settings()
    options: list[str] = []
    taken: list[str] = []
    for action in actions(parser):
        long = [name for name in action.option_strings if name.startswith("--")]
        # the parser gives settings this metavar; an option of a setting's name is an option
        if long and long[0].removeprefix("--") in known and action.metavar == "VALUE":
            taken.append(long[0].removeprefix("--"))
        elif not set(long) & set(COMMON):
            options.append(f"| {names(action)} | {cell(action.help or '')} |")
    # a help page says what a line does behind two spaces; a shell wants a sign before that
    examples = "\n".join(
        re.sub(r"(\S) {2,}(?=[^\s#])", r"\1  # ", line.strip()) for line in module.EXAMPLES.splitlines()
    )
    lines = [
        f"## {command.name}",
        "",
        f"{command.summary[0].upper()}{command.summary[1:]}.",
        "",
        f"```text\nside4video {command.name} {module.USAGE}\n```",
        "",
        f"```console\n{examples}\n```",
        "",
    ]
    if options:
        lines += ["| option | |", "|---|---|", *options, ""]
    shorts = short_flags(module)
    if len(taken) > 0.8 * len(known):
        lines += ["Takes [all settings](#settings)." + shorts, ""]
    elif taken:
        lines += ["Settings that can be changed: " + ", ".join(f"`{key}`" for key in taken) + "." + shorts, ""]
    return "\n".join(lines)


def short_flags(module: object) -> str:
    """The flags that stand for a setting."""
    flags: dict[str, str] = getattr(module, "SHORT_FLAGS", {})
    if not flags:
        return ""
    return " Short: " + ", ".join(f"`{flag}` for `{key}`" for flag, key in flags.items()) + "."


def settings_section() -> str:
    """Every setting, group by group."""
    lines = ["## Settings", ""]
    groups = {"": "Of the whole run", **setting_groups()}
    for group, about in groups.items():
        members = {key: field for key, field in known_settings().items() if key.rpartition(".")[0] == group}
        if not members:
            continue
        lines += [f"### {group or 'the run'}", "", f"{about[0].upper()}{about[1:]}.", ""]
        lines += ["| setting | default | what it does | allowed |", "|---|---|---|---|"]
        for key, field in members.items():
            default = "" if field.default is None else f"`{shown(field.default)}`"
            lines.append(
                f"| `{key}` | {default} | {cell(' '.join((field.description or '').split()))} "
                f"| {cell(describe_allowed(field))} |"
            )
        lines.append("")
    return "\n".join(lines)


def actions(parser: CommandParser) -> list[argparse.Action]:
    """The arguments of a command, in order."""
    # argparse has no public list of them
    found: list[argparse.Action] = parser._actions
    return [action for action in found if action.help is not argparse.SUPPRESS]


def names(action: argparse.Action) -> str:
    """An option's names and what stands for its value."""
    value = ""
    if action.nargs != 0:
        metavar = action.metavar if isinstance(action.metavar, str) else None
        if metavar is None:
            metavar = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
        value = cell(metavar)
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{name}{f' {value}' if value else ''}`" for name in action.option_strings)


def shown(value: object) -> str:
    """A default as one would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(shown(item) for item in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.replace("%%", "%").split()).replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
