"""Settings in words: their dotted names, what each may be, and the messages for wrong names and wrong values."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from side4video.config.schema import RunSettings
from side4video.errors import nearest_names


def known_settings() -> dict[str, FieldInfo]:
    """Every setting by its dotted name, in the order of the schema, without the names of the groups."""
    return dict(_flat_fields(RunSettings, ""))


def setting_groups() -> dict[str, str]:
    """The groups of settings and what each is about."""
    return {
        name: (field.description or "").rstrip(".")
        for name, field in RunSettings.model_fields.items()
        if _group_of(field) is not None
    }


def describe_allowed(field: FieldInfo) -> str:
    """What a setting may be, in words: ``a whole number, at least 1``."""
    limits = [text for item in field.metadata for text in _limits(item)]
    return ", ".join([" or ".join(_type_words(field.annotation)), *limits])


def unknown_setting(key: str) -> str:
    """The message for a setting that does not exist, with the nearest names."""
    known = known_settings()
    groups = {name: name for name in setting_groups()}
    if key in groups:
        members = ", ".join(name for name in known if name.startswith(f"{key}."))
        return f"'{key}' is a group of settings, not a setting; it has {members}"
    # people forget the group more often than they misspell: an exact last part comes first
    same = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1].replace("-", "_")]
    if same:
        return f"unknown setting '{key}'; did you mean {' or '.join(repr(name) for name in same)}?"
    suggestion = nearest_names(key, known)
    if not suggestion:
        by_last_part = {name.rsplit(".", 1)[-1]: name for name in known}
        suggestion = nearest_names(key.rsplit(".", 1)[-1], by_last_part)
    return f"unknown setting '{key}'{suggestion or '; `side4video train --help` lists them all'}"


def wrong_value(key: str, field: FieldInfo, value: Any, detail: ErrorDetails) -> str:
    """The message for a value that is not allowed: the setting, what it may be, and what came."""
    if detail["type"] == "value_error":
        return f"{key}: {detail['msg'].removeprefix('Value error, ')}"
    shown = "nothing" if value is None or value == "" else repr(value)
    wrong_word = isinstance(value, str) and _literals(field.annotation)
    suggestion = nearest_names(value, _literals(field.annotation)) if wrong_word and isinstance(value, str) else ""
    return f"{key}: must be {describe_allowed(field)}; got {shown}{suggestion}"


def _flat_fields(model: type[BaseModel], prefix: str) -> Iterable[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        group = _group_of(field)
        if group is None:
            yield f"{prefix}{name}", field
        else:
            yield from _flat_fields(group, f"{prefix}{name}.")


def _group_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in {Union, types.UnionType}:
        return [word for inner in get_args(annotation) for word in _literals(inner)]
    return []


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def _type_words(annotation: Any) -> list[str]:
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType}:
        return [word for inner in get_args(annotation) for word in _type_words(inner)]
    if origin is Literal:
        return [str(value) for value in get_args(annotation)]
    if origin is list:
        return [f"a list of {_plural(get_args(annotation)[0])}"]
    if origin is tuple:
        inner = get_args(annotation)
        return [f"{len(inner)} {_plural(inner[0])} as [{', '.join('.' * 3 for _ in inner)}]"]
    return [_WORDS.get(annotation, str(annotation))]


def _plural(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(_type_words(annotation))
    if get_origin(annotation) is tuple:
        return f"[{', '.join(_WORDS.get(inner, '?').removeprefix('a ') for inner in get_args(annotation))}]"
    return {int: "whole numbers", float: "numbers", str: "words"}.get(annotation, str(annotation))


def _limits(item: Any) -> list[str]:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return [f"{word} {getattr(item, name):g}" for name, word in words.items() if getattr(item, name, None) is not None]
