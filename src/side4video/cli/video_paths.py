"""The words of `side4video predict` as run folders and videos: files, folders and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from side4video.data.records import has_image_name, has_video_name
from side4video.errors import ConfigError

_RUN_FILES = ("config.yaml", "side.safetensors")


@dataclass(frozen=True)
class Found:
    """`runs` in the order given, `videos` in order and each once, `missing` the words that lead nowhere and why."""

    runs: list[Path]
    videos: list[Path]
    missing: list[tuple[str, str]]


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run."""
    return all((path / name).is_file() for name in _RUN_FILES)


def check_run(path: Path) -> None:
    """Raise unless `path` is the folder of a run.

    Raises:
        ConfigError: it is missing, no folder, or a run without weights.
    """
    if is_run(path):
        return
    if not path.exists():
        raise ConfigError(f"no such run folder: '{path}'")
    if not path.is_dir():
        raise ConfigError(f"'{path}' is a file; a run is the folder that `side4video train --out` makes")
    if (path / _RUN_FILES[0]).is_file():
        raise ConfigError(f"'{path}' holds a run without weights ({_RUN_FILES[1]}): it has not finished an epoch yet")
    raise ConfigError(f"'{path}' is no run folder: it has no {_RUN_FILES[0]}; `side4video train --out` makes one")


def find_videos(words: Sequence[str]) -> Found:
    """Tell runs from videos, and look into folders and globs. The first word must be a run.

    Raises:
        ConfigError: the first word is no run, or nothing but runs is named.
    """
    check_run(Path(words[0]))
    runs: list[Path] = []
    rest: list[str] = []
    for word in words:
        if is_run(Path(word)):
            runs = [*runs, Path(word)] if Path(word) not in runs else runs
        else:
            rest.append(word)
    if not rest:
        raise ConfigError("no video: name files, folders or globs after the run folder")
    videos: dict[Path, None] = {}
    missing: list[tuple[str, str]] = []
    for word in rest:
        found = list(_videos_of(word))
        if not found:
            path = Path(word)
            reason = "no video in this folder" if path.is_dir() else "no such file"
            missing.append((word, "matches no video" if glob.has_magic(word) and not path.exists() else reason))
        videos.update(dict.fromkeys(found))
    return Found(runs, list(videos), missing)


def _videos_of(word: str) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        yield from _videos_in(path)
    elif path.exists():
        yield path
    elif glob.has_magic(word):
        for name in sorted(glob.glob(word, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
            match = Path(name)
            if match.is_dir():
                yield from _videos_in(match)
            elif _is_video(match):
                yield match


def _videos_in(folder: Path) -> Iterator[Path]:
    """Videos below a folder in order of their paths; a folder of numbered pictures is one video."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        here = [Path(place) / name for name in sorted(files)]
        videos = [path for path in here if _is_video(path)]
        yield from videos
        if not videos and any(_is_picture(path) for path in here):
            yield Path(place)
            folders.clear()


def _is_video(path: Path) -> bool:
    return has_video_name(path.name)


def _is_picture(path: Path) -> bool:
    return has_image_name(path.name)
