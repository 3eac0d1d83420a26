"""Every command in README and docs is one that exists, with options and settings that exist and may have these values.

Which of them are also run, and on what, stands in `tests/run/test_docs_run.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from types import ModuleType

import pytest

import side4video
from api.docs_blocks import OTHER, PAGES, PROGRAMS, ROOT, SHELL, Typed, blocks, side4video_words, typed
from side4video.cli.main import COMMANDS, make_parser
from side4video.config.describe import known_settings, setting_groups
from side4video.config.load import load_settings, shipped_recipes
from side4video.config.variants import expand

COMMAND_LINES = [command for command in typed() if side4video_words(command) is not None]
OTHER_LINES = [command for command in typed() if side4video_words(command) is None]


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("command", COMMAND_LINES, ids=str)
def test_commands_of_the_docs_are_understood(command: Typed) -> None:
    words = side4video_words(command)
    assert words is not None
    if words[0] in ("--help", "--version"):
        return
    if words[0] == "COMMAND":
        assert words[1:] == ("--help",)
        return
    known = {known.name: known for known in COMMANDS}
    assert words[0] in known, f"there is no command {words[0]!r}"
    _, parser = make_parser(known[words[0]])
    if {"-h", "--help"} & set(words):
        return
    check_settings(words[0], parser.parse_words(words[1:]))


def check_settings(name: str, options: argparse.Namespace) -> None:
    """The settings of a command, on top of the recipe that it names."""
    overrides: dict[str, str] = options.overrides
    words = [
        *(getattr(options, "words", None) or []),
        getattr(options, "source", None),
        getattr(options, "recipe", None),
    ]
    recipe = next((word for word in words if word in shipped_recipes()), None)
    if name == "sweep":
        assert len(expand(overrides, lambda values: load_settings(recipe, values))) > 1 or options.resume
        return
    load_settings(recipe, overrides)


def test_no_command_is_missed() -> None:
    """The collector sees what a reader sees: as many lines as there are that start with our name."""
    seen = {(command.page, command.line) for command in COMMAND_LINES}
    assert len(seen) > 60
    for block in blocks():
        for number, line in enumerate(block.text.splitlines(), start=block.line):
            if line.strip().removeprefix("$ ").startswith("side4video ") and block.language != "text":
                assert (block.page, number) in seen, f"{block.page}:{number}: {line}"


def test_languages_and_programs_are_known() -> None:
    for block in blocks():
        assert block.language in SHELL | OTHER | {""}, f"{block.page}:{block.line}: ```{block.language}"
    for command in OTHER_LINES:
        words = [word for word in command.words if "=" not in word.split("/")[0] or word is command.words[-1]]
        assert words[0] in PROGRAMS, str(command)
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), f"{command}: no such script"
        if words[0] == "make":
            targets = (ROOT / "Makefile").read_text().split(".PHONY: ")[1].splitlines()[0].split()
            assert words[1] in targets, f"{command}: no such target"


def test_the_page_of_commands_is_what_the_parsers_say() -> None:
    script = load_script("write_commands_page")
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run scripts/write_commands_page.py"
    page = script.page()
    for command in COMMANDS:
        assert f"## {command.name}\n" in page
    for group in setting_groups():
        assert f"### {group}\n" in page
    assert "`--resume`" in page
    assert "| `side.width` |" in page


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert len(pages) > 20
    for page in pages:
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation, f"{page.name} is not in mkdocs.yml"

    for page in [ROOT / "README.md", *pages]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if "://" in target or target.startswith("#"):
                continue
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_settings_that_are_named_exist() -> None:
    known, files = known_settings(), {"safetensors", "csv", "json", "txt", "mp4", "py", "yaml"}
    groups = "|".join(setting_groups())
    found = 0
    for page in PAGES:
        for key in re.findall(rf"`((?:{groups})\.[a-z_0-9]+)(?:[= ][^`]*)?`", page.read_text(encoding="utf-8")):
            if key.rpartition(".")[2] not in files:
                found += 1
                assert key in known, f"{page.name}: there is no setting {key!r}"
    assert found > 100


def test_every_public_name_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").splitlines()
    # the error is shown with its whole family
    assert "::: side4video.errors" in reference
    for name in set(side4video.__all__) - {"__version__", "Side4VideoError"}:
        assert f"::: side4video.{name}" in reference
