"""Class names: read from a file, and searched for pairs that a mirror exchanges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from side4video.data.text_files import csv_rows, read_json, read_text, shown, text_lines
from side4video.errors import DataError

_ID_FIRST = re.compile(r"\s*\d{1,6}\s*[,;\t]")
_ID = re.compile(r"\s*\d{1,6}\s*")
_MIRRORED_WORDS = (
    ("left", "right"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("clockwise", "anticlockwise"),
    ("clockwise", "counterclockwise"),
    ("cw", "ccw"),
)


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Class names in the order of their numbers: one a line, CSV `id,name`, or JSON (a list, or name to number).

    Raises: DataError when the file is missing, malformed, has a name or number twice, or numbers with gaps.
    """
    file = Path(path)
    text = read_text(file)
    if file.suffix.lower() == ".json":
        return _from_json(file, text)
    lines = list(text_lines(text))
    first = lines[0][1]
    header = [cell.strip().lower() for cell in re.split(r"[,;\t]", first)]
    if header == ["id", "name"] or all(_ID_FIRST.match(line) for _, line in lines):
        delimiter = next(mark for mark in ",;\t" if mark in first)
        return _from_table(file, text, delimiter, has_header=header == ["id", "name"])
    return _checked(file, [(number, name.strip()) for number, name in lines])


def find_mirror_pairs(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of classes whose names differ only by left and right, or clockwise and anticlockwise: a mirror image of
    one shows the other. In the order of their first member; plain flips and these classes do not go together."""
    by_words = {_words(name): name for name in reversed(class_names)}
    pairs: list[tuple[str, str]] = []
    for name in class_names:
        for mirrored in _mirror_images(_words(name)):
            partner = by_words.get(mirrored)
            if (
                partner is not None
                and partner != name
                and (partner, name) not in pairs
                and (name, partner) not in pairs
            ):
                pairs.append((name, partner))
    return pairs


def find_mirror_words(class_names: Sequence[str]) -> list[str]:
    """Classes whose names say left, right, clockwise or anticlockwise, with or without a partner that says the
    other: a mirror image may not be what the name says."""
    return [name for name in class_names if _mirror_images(_words(name))]


def _words(name: str) -> tuple[str, ...]:
    """Lower-case words; camelCase, digits and punctuation separate, and a hyphen in counter-clockwise does not."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    joined = re.sub(r"\b(anti|counter)[\s_-]+(?=clockwise)", r"\1", spaced.lower().replace("_", " "))
    return tuple(re.findall(r"[^\W\d_]+|\d+", joined))


def _mirror_images(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The word lists that come of exchanging every left for right and so on; none when there is nothing to exchange."""
    images: list[tuple[str, ...]] = []
    for clockwise_opposite in ("anticlockwise", "counterclockwise"):
        pairs = [(a, b) for a, b in _MIRRORED_WORDS if a != "clockwise" or b == clockwise_opposite]
        exchange = {**dict(pairs), **{b: a for a, b in pairs}}
        image = tuple(exchange.get(word, word) for word in words)
        if image != words and image not in images:
            images.append(image)
    return images


def _from_json(file: Path, text: str) -> tuple[str, ...]:
    value = read_json(file, text)
    if isinstance(value, list):
        names = cast("list[object]", value)
        if all(isinstance(name, str) for name in names):
            return _checked(file, [(1, str(name)) for name in names])
    if isinstance(value, dict):
        numbered = cast("dict[str, object]", value)
        if all(_ID.fullmatch(str(number)) for number in numbered.values()):
            return _ordered(file, [(1, int(str(number)), name) for name, number in numbered.items()])
    raise DataError(f"{shown(file)}: class names in JSON are a list of names, or an object from name to number")


def _from_table(file: Path, text: str, delimiter: str, *, has_header: bool) -> tuple[str, ...]:
    numbered: list[tuple[int, int, str]] = []
    for row, (line, cells) in enumerate(csv_rows(file, text, delimiter)):
        if row == 0 and has_header:
            continue
        if len(cells) != 2 or not _ID.fullmatch(cells[0]):
            raise DataError(f"{shown(file)}, line {line}: a class is a number and a name, `id,name`; got {cells}")
        numbered.append((line, int(cells[0]), cells[1].strip()))
    return _ordered(file, numbered)


def _ordered(file: Path, numbered: list[tuple[int, int, str]]) -> tuple[str, ...]:
    numbered = sorted(numbered, key=lambda row: row[1])
    for expected, (line, number, _) in enumerate(numbered):
        if number != expected:
            problem = "appears twice" if number < expected else f"comes where {expected} is missing"
            raise DataError(
                f"{shown(file)}, line {line}: class numbers must run from 0 without gaps; {number} {problem}"
            )
    return _checked(file, [(line, name) for line, _, name in numbered])


def _checked(file: Path, names: list[tuple[int, str]]) -> tuple[str, ...]:
    seen: set[str] = set()
    for line, name in names:
        if not name:
            raise DataError(f"{shown(file)}, line {line}: a class name is empty")
        if name in seen:
            raise DataError(f"{shown(file)}, line {line}: class {name!r} appears twice")
        seen.add(name)
    return tuple(name for _, name in names)
