"""Damage to text files: bytes, tokens, and values of JSON that are of another kind."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from fuzzing.bytes_mutations import mutate

_NUMBERS = (
    "-1",
    "0",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "9" * 400,
    "9" * 5000,
    "0x10",
    "1_000",
    "1.5",
    "-0.0",
    "1e-400",
    "2147483648",
    "9223372036854775808",
    "\u0661\u0662",
    "\u00b2",
    "",
)
_WORDS = (
    "",
    " ",
    "null",
    "\0",
    "\r",
    "\n",
    "\u2028",
    "\u202e",
    "\ufeff",
    "../../etc/passwd",
    "/",
    "//",
    "..",
    "a" * 300,
    "\ud7ff",
    "\U0001f600",
    '"',
    "'",
    ",",
    ";",
    "\t",
    "\\",
    "{}",
    "[]",
    "%s",
    "{0}",
    "$HOME",
    "~",
    "a/b\\c",
    "\x1b[2J",
    "CON",
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    10**30,
    "",
    "x",
    [],
    {},
    [[]],
    {"a": 1},
    ["a", 1, None],
    "9" * 500,
)


def damage(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """The text with one or two changes, and their name."""
    kind = rng.choice(
        ("bytes", "number", "word", "line", "encoding", "json", "json", "nesting", "long", "separator", "ends")
    )
    text = data.decode("utf-8", "surrogateescape")
    if kind == "json":
        try:
            return _json(rng, text).encode("utf-8", "surrogatepass"), "json value"
        except ValueError:
            kind = "number"
    if kind == "bytes":
        return mutate(rng, data)
    if kind == "number":
        text = _replace_one(rng, text, r"-?\d+(\.\d+)?", rng.choice(_NUMBERS))
    elif kind == "word":
        text = _replace_one(rng, text, r"\w+", rng.choice(_WORDS))
    elif kind == "line":
        lines = text.split("\n")
        place = rng.randrange(len(lines))
        change = rng.choice(("remove", "double", "swap", "blank", "cut"))
        if change == "remove":
            del lines[place]
        elif change == "double":
            lines.insert(place, lines[place])
        elif change == "swap":
            other = rng.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        elif change == "blank":
            lines.insert(place, rng.choice(("", "   ", "\t", "#", ",,,,")))
        else:
            lines[place] = lines[place][: rng.randrange(len(lines[place]) + 1)]
        text = "\n".join(lines)
    elif kind == "encoding":
        return _encode(rng, text)
    elif kind == "nesting":
        deep = rng.choice((200, 2000, 200_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ("- ", ""), ("(", ")")))
        text = _replace_one(rng, text, r"\w+|$", opening * deep + "1" + closing * rng.choice((0, deep)))
    elif kind == "long":
        text = _replace_one(rng, text, r"\w+", "long" * rng.choice((1000, 50_000, 500_000)))
    elif kind == "separator":
        text = text.replace(
            rng.choice((",", "\t", " ", ":", '"', "\n")), rng.choice((",", ";", "\t", " ", '"', "\r\n", ""))
        )
    else:
        text = text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", "\n\r", "\x0b", "\x85")))
    return text.encode("utf-8", "surrogateescape"), kind


def harmless(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """The same content in another dress: a byte order mark, other line ends, blank lines at the end."""
    kind = rng.choice(("mark", "ends", "blank"))
    if kind == "mark":
        return b"\xef\xbb\xbf" + data, kind
    if kind == "ends":
        return data.replace(b"\n", b"\r\n"), kind
    return data + b"\n\n", kind


def _encode(rng: random.Random, text: str) -> tuple[bytes, str]:
    kind = rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"))
    return text.encode(kind, "replace"), kind


def _replace_one(rng: random.Random, text: str, pattern: str, new: str) -> str:
    found = list(re.finditer(pattern, text))
    if not found:
        return text + new
    match = rng.choice(found)
    return text[: match.start()] + new + text[match.end() :]


def _json(rng: random.Random, text: str) -> str:
    """One value somewhere in the text, or in one of its lines, becomes another, is gone, or is there twice."""
    lines = text.split("\n")
    try:
        values, is_whole = [json.loads(text)], True
    except ValueError:
        values, is_whole = [json.loads(line) for line in lines if line.strip()], False
    places: list[tuple[Any, Any]] = []
    _walk(values, places)
    owner, key = rng.choice(places)
    change = rng.choice(("value", "value", "value", "remove", "wrap"))
    if change == "value":
        owner[key] = rng.choice(_VALUES)
    elif change == "remove":
        del owner[key]
    else:
        owner[key] = [owner[key]]
    if is_whole:
        return json.dumps(values[0]) if values else ""
    return "\n".join(map(json.dumps, values)) + "\n"


def _walk(value: Any, places: list[tuple[Any, Any]]) -> None:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        places.append((value, key))
        _walk(inner, places)
