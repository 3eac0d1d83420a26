"""`side4video backbones`: the image models that can be used, by name. Nothing heavy is imported."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from side4video.cli.console import note, say
from side4video.cli.main import Outcome

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser
