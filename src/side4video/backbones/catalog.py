"""The image models that can be used, by name, without importing the libraries that have them.

The table is `assets/catalog.json`, written by `scripts/make_backbone_catalog.py` from the libraries' own listings. It
is for looking up and for suggestions: a newer library's newer models work too, as soon as they fit an adapter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files

from side4video.errors import BackboneError

TINY = "tiny-clip"
AUTO = "open_clip:ViT-B-16/openai"
LIBRARIES = ("side4video", "timm", "open_clip")


@dataclass(frozen=True)
class BackboneEntry:
    """One name that `create_backbone` takes.

    `library` is one of `LIBRARIES`, `image_size` the input side in pixels, `patch_size` the side of a patch, `width`
    and `depth` those of the transformer, `million_parameters` counts the image model alone. `downloads` is false when
    no published weights belong to the name: it needs `weights=` or `pretrained=False`.
    """

    name: str
    library: str
    image_size: int
    patch_size: int
    width: int
    depth: int
    million_parameters: float
    downloads: bool


def list_backbones(pattern: str = "", *, library: str | None = None) -> list[BackboneEntry]:
    """The catalogue: ours first, then by name.

    `pattern` is a part of the name or a glob such as `open_clip:*L-14*`, in any case of letters.

    Raises:
        BackboneError: for an unknown library.
    """
    if library is not None and library not in LIBRARIES:
        raise BackboneError(f"library: got {library!r}, allowed are {', '.join(LIBRARIES)}")
    wanted = pattern.lower()
    glob = wanted if any(letter in wanted for letter in "*?[") else f"*{wanted}*"
    return [entry for entry in _entries() if library in (None, entry.library) and fnmatch(entry.name.lower(), glob)]


def suggest(name: str, limit: int = 3) -> str:
    """A clause with the nearest names, prefix or not; it ends a sentence."""
    lowered = name.lower()
    by_key = {entry.name.lower(): entry.name for entry in _entries()}
    by_key |= {key.partition(":")[2]: full for key, full in by_key.items() if ":" in key}
    close = get_close_matches(lowered, list(by_key), n=limit, cutoff=0.5)
    names = list(dict.fromkeys(by_key[key] for key in close))
    return f"; did you mean {' or '.join(repr(n) for n in names)}?" if names else "."


@cache
def _entries() -> tuple[BackboneEntry, ...]:
    table = json.loads(files("side4video.backbones").joinpath("assets", "catalog.json").read_text(encoding="utf-8"))
    rows = [BackboneEntry(**dict(zip(table["columns"], row, strict=True))) for row in table["rows"]]
    return tuple(sorted(rows, key=lambda entry: (LIBRARIES.index(entry.library), entry.name.lower())))
