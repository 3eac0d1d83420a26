"""The result file: rows that know which run made them, kept in the order of the catalogue, written in one piece."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peers.catalog import FRAMES, SIZES, entries

KEY = ("size", "batch_size", "num_frames", "method", "way")
SECTIONS = ("simulated", "cpu", "gpu")
Row = dict[str, Any]


class Results:
    """`simulated`, `cpu` and `gpu` rows; `runs` says with what command, commit and machine each was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[dict[str, Any]] = []
        self.rows: dict[str, dict[tuple[Any, ...], Row]] = {section: {} for section in SECTIONS}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            self.runs = stored["runs"]
            for section in SECTIONS:
                self.rows[section] = {key(row): row for row in stored[section]}

    def add(self, section: str, rows: Iterable[Row], run: dict[str, Any]) -> None:
        """Put rows in, in the place of older ones, and write the file."""
        if run not in self.runs:
            self.runs.append(run)
        for row in rows:
            self.rows[section][key(row)] = {**row, "run": self.runs.index(run)}
        self.save()

    def find(self, section: str, **wanted: Any) -> list[Row]:
        """Rows with these values, in order."""
        found = [
            row for row in self.rows[section].values() if all(row[name] == value for name, value in wanted.items())
        ]
        return sorted(found, key=_order)

    def save(self) -> None:
        """Write the file; runs that no row needs any more are left out."""
        used = sorted({row["run"] for rows in self.rows.values() for row in rows.values()})
        place = {old: new for new, old in enumerate(used)}
        self.runs = [self.runs[index] for index in used]
        for rows in self.rows.values():
            for row in rows.values():
                row["run"] = place[row["run"]]
        parts = [f'"runs": {_lines(self.runs)}']
        parts += [f'"{section}": {_lines(sorted(self.rows[section].values(), key=_order))}' for section in SECTIONS]
        self.path.parent.mkdir(exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        whole.replace(self.path)


def key(row: Row) -> tuple[Any, ...]:
    """What makes a row the same row in another run."""
    return tuple(row[name] for name in KEY)


def _lines(rows: Iterable[Row]) -> str:
    """A JSON list with one row a line."""
    return "[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]"


def _order(row: Row) -> tuple[int, ...]:
    sizes = [size.label for size in SIZES]
    at = sizes.index(row["size"]) if row["size"] in sizes else len(sizes)
    known = [(entry.method, entry.way) for entry in entries(SIZES[0])]
    entry = (row["method"], row["way"])
    frames = FRAMES.index(row["num_frames"]) if row["num_frames"] in FRAMES else -1
    return at, row["batch_size"], frames, known.index(entry) if entry in known else len(known)
