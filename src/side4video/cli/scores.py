"""The scores of every clip as a table: CSV, or parquet with the extra."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from side4video.errors import ConfigError, MissingExtraError
from side4video.training.files import write_bytes

SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class ScoreRow:
    """One clip: `scores` sum to one, in the order of the classes. Start and end are None for a whole video."""

    path: str
    start_seconds: float | None
    end_seconds: float | None
    label: str
    predicted: str
    scores: Sequence[float]


def check_scores_path(path: Path) -> None:
    """Find out before the work whether a table can be written in the form that the name asks for.

    Raises:
        ConfigError: another suffix.
        MissingExtraError: parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--scores: must end in {' or '.join(SUFFIXES)}; got '{path}'")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401 # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None


def write_scores(path: Path, rows: Sequence[ScoreRow], class_names: Sequence[str]) -> None:
    """One line a clip: path, start and end where any clip has them, label, predicted, and `score_CLASS` columns.

    Raises:
        OSError: the file cannot be written; what was there before still is.
    """
    columns: dict[str, list[object]] = {"path": [row.path for row in rows]}
    if any(row.start_seconds is not None or row.end_seconds is not None for row in rows):
        columns["start"] = [row.start_seconds for row in rows]
        columns["end"] = [row.end_seconds for row in rows]
    columns["label"] = [row.label for row in rows]
    columns["predicted"] = [row.predicted for row in rows]
    for index, name in enumerate(class_names):
        columns[f"score_{name}"] = [row.scores[index] for row in rows]
    write_bytes(path, _parquet(columns) if path.suffix.lower() == ".parquet" else _csv(columns))


def _csv(columns: dict[str, list[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _parquet(columns: dict[str, list[object]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()
