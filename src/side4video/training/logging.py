"""The curves of a run: CSV, TensorBoard, Weights & Biases. A resumed run goes on without duplicate or missing steps."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch.utils.tensorboard import SummaryWriter

from side4video.errors import MissingExtraError
from side4video.training.files import write_bytes, write_json

LOG_FOLDER = "logs"
STEP_COLUMNS = ("step", "epoch", "loss", "top1", "lr", "clips_per_second")
EPOCH_COLUMNS = ("val_loss", "val_top1", "val_top5", "val_mean_class")


class CurveLogger(Protocol):
    """One place where curves go; used by the first process only."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Values that hold after `step` optimiser steps."""
        ...

    def flush(self) -> None:
        """Everything so far is on the disk when this returns."""
        ...

    def close(self) -> None:
        """Flush, and let go."""
        ...


def open_loggers(
    names: Sequence[str],
    out: Path,
    *,
    step: int,
    epochs: int,
    step_columns: Sequence[str] = STEP_COLUMNS,
    epoch_columns: Sequence[str] = EPOCH_COLUMNS,
) -> list[CurveLogger]:
    """The loggers of a run that stands at `step`, `epochs` of them over; what they hold beyond that is dropped.

    The columns are those of the tables; `val_loss` is the first of an epoch's.

    Raises:
        MissingExtraError: wandb is wanted and not installed.
        OSError: the folder cannot be written.
    """
    (out / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
    made: dict[str, Callable[[], CurveLogger]] = {
        "csv": lambda: CsvCurves(out, step, epochs, step_columns, epoch_columns),
        "tensorboard": lambda: TensorBoardCurves(out, step=step),
        "wandb": lambda: WandbCurves(out, step=step),
    }
    return [made[name]() for name in dict.fromkeys(names)]


class CsvCurves:
    """`logs/steps.csv` with a row a step, and `logs/epochs.csv` with a row a validation."""

    def __init__(
        self, out: Path, step: int, epochs: int, step_columns: Sequence[str], epoch_columns: Sequence[str]
    ) -> None:
        folder = out / LOG_FOLDER
        self._steps = _CsvFile(folder / "steps.csv", step_columns, "step", step)
        self._epochs = _CsvFile(folder / "epochs.csv", ("step", "epoch", *epoch_columns), "epoch", epochs)

    def log(self, values: Mapping[str, float], step: int) -> None:
        target = self._epochs if EPOCH_COLUMNS[0] in values else self._steps
        target.write({"step": step, **values})

    def flush(self) -> None:
        self._steps.flush()
        self._epochs.flush()

    def close(self) -> None:
        self._steps.close()
        self._epochs.close()


class _CsvFile:
    """A table that keeps its rows up to `last` in the column `key`, and appends."""

    def __init__(self, path: Path, columns: Sequence[str], key: str, last: int) -> None:
        kept: list[dict[str, str]] = []
        if last and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if _is_within(row, key, last)]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_bytes(path, text.getvalue().encode())
        self._file: TextIO = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns, extrasaction="ignore", lineterminator="\n")

    def write(self, row: Mapping[str, Any]) -> None:
        self._writer.writerow(row)
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
            self._file.close()


def _is_within(row: Mapping[str, str | None], key: str, last: int) -> bool:
    # the last row of a killed run may be torn
    number = row.get(key) or ""
    return number.isdecimal() and int(number) <= last and all(value is not None for value in row.values())


class TensorBoardCurves:
    """Event files in `logs/tensorboard`; a resumed run purges what lies beyond its step.

    TensorBoard reads the files in order of their names, which hold the second they were opened in and then a process
    and a counter in no useful order: a purge only works from a file of a later second.
    """

    def __init__(self, out: Path, *, step: int) -> None:
        folder = out / LOG_FOLDER / "tensorboard"
        _wait_for_a_later_second(folder)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name.replace("val_", "validation/"), value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _wait_for_a_later_second(folder: Path) -> None:
    """At most a second, as files of the future (another machine's clock) are not waited for."""
    seconds = [name.split(".")[3] for path in folder.glob("events.out.tfevents.*") if (name := path.name)]
    taken = {int(text) for text in seconds if text.isdecimal()}
    while int(time.time()) in taken:
        time.sleep(0.02)


class WandbCurves:
    """One Weights & Biases run, found again by its id in `logs/wandb.json` when training is resumed."""

    def __init__(self, out: Path, *, step: int) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtraError("wandb", "wandb") from None
        path = out / LOG_FOLDER / "wandb.json"
        known = path.read_text(encoding="utf-8") if step and path.exists() else None
        self._run: Any = _init_wandb(wandb, out, known)
        write_json(path, self._run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        # W&B drops rows whose step is behind its own, which is what a resumed run repeats
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


def _init_wandb(wandb: Any, out: Path, known: str | None) -> Any:
    run_id = None if known is None else known.strip().strip('"')
    return wandb.init(project="side4video", name=out.name, dir=str(out / LOG_FOLDER), id=run_id, resume="allow")
