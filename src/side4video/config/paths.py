"""Where a run's lists are: a relative `data.train`, `data.val` or `data.classes` is looked up under `data.root` too.

A shipped recipe names its lists (`train.txt`); `data.root=FOLDER` then is all that a user has to say.
"""

from __future__ import annotations

from pathlib import Path

from side4video.config.schema import RunSettings
from side4video.errors import ConfigError

LOOKED_UP = ("train", "val", "classes")


def locate_data(settings: RunSettings) -> RunSettings:
    """The settings with every list that is found under `data.root` named by where it is.

    What is there only as it is written, or nowhere, stays as it is written.

    Raises:
        ConfigError: a list is in the working directory and under the root, and they are two.
    """
    root = settings.data.root
    if root is None:
        return settings
    found: dict[str, str] = {}
    for key in LOOKED_UP:
        value: str | None = getattr(settings.data, key)
        if value is None or Path(value).is_absolute():
            continue
        under, here = Path(root) / value, Path(value)
        if not under.exists():
            continue
        if here.exists() and here.resolve() != under.resolve():
            raise ConfigError(
                f"data.{key}={value} is in the working directory and in data.root={root}; "
                f"name the one that is meant: data.{key}={under} or data.{key}={here.resolve()}"
            )
        found[key] = str(under.absolute())
    return settings.model_copy(update={"data": settings.data.model_copy(update=found)}) if found else settings
