"""Whether a shard's record has everything that is read of it, of the right kind: the file may be damaged."""

from __future__ import annotations

from typing import Any, cast


def is_record(record: Any, items: range) -> bool:
    """Whether a shard's record has everything that is read of it."""
    if not isinstance(record, dict) or not isinstance(record.get("items"), dict):
        return False
    values = cast("dict[str, Any]", record)
    entries: dict[str, Any] = values["items"]
    squares = values.get("squares")
    return (
        type(values.get("bytes")) is int
        and isinstance(values.get("sha256"), str)
        and isinstance(squares, list)
        and len(cast("list[Any]", squares)) == 2
        and all(type(value) in (int, float) for value in cast("list[Any]", squares))
        and entries.keys() == {str(number) for number in items}
        and all(_is_entry(entry) for entry in entries.values())
    )


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return False
    values = cast("dict[str, Any]", entry)
    if type(values.get("video_bytes", 0)) not in (int, type(None)) or "video_bytes" not in values:
        return False
    if "broken" in values:
        return isinstance(values["broken"], str)
    return (
        _is_list_of(values.get("labels"), int)
        and isinstance(values.get("masks"), list)
        and all(_is_list_of(mask, int) for mask in values["masks"])
        and isinstance(values.get("channels_last"), bool)
        and _is_list_of(values.get("tensors"), str)
        and type(values.get("crc32")) is int
    )


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in cast("list[Any]", value))
