"""Names of runs on the hub: `hf:ORG/NAME`, with `@REVISION` where one is meant. Nothing heavy is imported here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from side4video.errors import ConfigError

PREFIX = "hf:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}")

# the files of a run that are shared; the same names as in training/checkpoint.py
WEIGHTS, CONFIG, BACKBONE, CLASSES = "side.safetensors", "config.yaml", "backbone.json", "classes.json"
PREPROCESSING, TEXT, METRICS, RUN = "preprocessing.json", "text.json", "metrics.json", "run.json"
CARD = "README.md"


@dataclass(frozen=True)
class HubName:
    """A repository and a revision of it (a branch, tag or commit; nothing: the newest)."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(text: str | Path) -> bool:
    """Whether a word names a run on the hub; a path of that name is a path."""
    return str(text).startswith(PREFIX) and not Path(text).exists()


def parse_hub_name(text: str | Path) -> HubName:
    """The parts of `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`; the prefix may be left out.

    Raises:
        ConfigError: another form.
    """
    repository, at, revision = str(text).removeprefix(PREFIX).partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise ConfigError(f"a run on the hub is named hf:ORG/NAME or hf:ORG/NAME@REVISION; got {str(text)!r}")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"a revision is a branch, a tag or a commit; got {revision!r} in {str(text)!r}")
    return HubName(repository, revision or None)
