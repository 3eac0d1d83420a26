"""`side4video backbones`: the image models that can be used, by name. Nothing heavy is imported."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from side4video.backbones.catalog import BackboneEntry, list_backbones, suggest
from side4video.cli.console import fail, note, say
from side4video.cli.main import BAD_INPUT, Outcome
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser

USAGE = "[PATTERN] [--library timm|open_clip|ours] [--json]"
EXAMPLES = """  side4video backbones
  side4video backbones dinov2
  side4video backbones 'open_clip:*L-14*'
  side4video backbones --library ours --json"""

LIBRARIES = {"timm": "timm", "open_clip": "open_clip", "ours": "side4video"}


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="a part of the name, or a glob")
    parser.add_option("--library", metavar="NAME", help="only models of timm, of open_clip, or ours")
    parser.add_common()


def run(options: argparse.Namespace) -> Outcome:
    """List.

    Raises:
        ConfigError: an unknown library.
    """
    if options.library is not None and options.library not in LIBRARIES:
        raise ConfigError(f"--library: must be {' or '.join(LIBRARIES)}; got '{options.library}'")
    library = None if options.library is None else LIBRARIES[options.library]
    entries = list_backbones(options.pattern, library=library)
    if not entries:
        fail(f"no backbone matches '{options.pattern}'{suggest(options.pattern)}")
        return Outcome(BAD_INPUT, [])
    if not options.json:
        _show(entries)
    return Outcome(value=[asdict(entry) for entry in entries])


def _show(entries: list[BackboneEntry]) -> None:
    """Plain columns, not a rich table: thousands of lines, and made for grep."""
    width = max(len(entry.name) for entry in entries)
    say(f"{'name'.ljust(width)}  image  patch  width  depth  parameters")
    for entry in entries:
        weights = "" if entry.downloads else "  no weights to download"
        size = f"{entry.image_size:5d}  {entry.patch_size:5d}  {entry.width:5d}  {entry.depth:5d}"
        say(f"{entry.name.ljust(width)}  {size}  {entry.million_parameters:8.1f} M{weights}")
    note(f"{len(entries)} models; use one with: side4video train ... --backbone NAME")
