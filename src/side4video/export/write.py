"""A model to files: traced, written under another name, compared with the model, and only then put where they belong.

A file that is too far from the model is not kept. Whatever happens, nothing half-written bears the name that was asked
for: all is made in a folder beside it, flushed to the disk, and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from side4video.errors import ConfigError
from side4video.export.check import INT8_TOLERANCE, TOLERANCE, Difference, clips_of, compare
from side4video.export.onnx_files import (
    EXTERNAL_ABOVE,
    data_file,
    file_bytes,
    open_onnx,
    require_onnx,
    write_int8,
    write_onnx,
)
from side4video.export.parts import Part, Sizes, What, exportable, parts_of
from side4video.export.record import part_record
from side4video.export.trace import open_pt2, trace, write_pt2
from side4video.tasks.base import TrainedModel
from side4video.training.files import sync_folder

Format = Literal["onnx", "pt2"]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2"}
PARTIAL = ".partial"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """One part, written or refused. `kept` is false when it is farther from the model than `tolerance`.

    `matrices` says how many weight matrices of an int8 file are in int8, and of how many.
    """

    path: Path
    part: str
    precision: str
    num_bytes: int
    difference: Difference
    tolerance: float
    kept: bool
    matrices: tuple[int, int] | None = None


def export_model(
    model: TrainedModel,
    record: dict[str, Any],
    out: Path,
    frames_TCHW: Tensor,
    *,
    what: What = "full",
    sizes: Sizes | None = None,
    int8: bool = False,
    tolerance: float | None = None,
    external_above: int = EXTERNAL_ABOVE,
    progress: Progress = lambda _: None,
) -> list[Exported]:
    """Write a model as `out` (.onnx or .pt2); a whole retrieval model becomes three files, named after their parts.

    `record` is `make_record`'s, `frames_TCHW` are normalised frames of a video to compare on. With `int8` the weight
    matrices of an ONNX file are stored in eight bits. `tolerance` is the largest difference from the model that a file
    may have (`check.py` says of what); default: 1e-4, and 0.05 for int8. If one part is too far, none is kept.

    Raises:
        ConfigError: a suffix that is not known, int8 for another format than ONNX, a model that cannot be exported, or
            frozen weights that are not plain float32.
        MissingExtraError: ONNX, and its extra is not installed.
        OSError: the folder cannot be written; nothing has been kept.
    """
    kind = file_format(out)
    if int8 and kind != "onnx":
        raise ConfigError(f"int8 is for .onnx files; got '{out}'")
    if kind == "onnx":
        require_onnx()
    sizes = sizes or Sizes()
    limit = tolerance if tolerance is not None else INT8_TOLERANCE if int8 else TOLERANCE
    # one name for all attempts: what a killed one left goes when the next begins
    workshop = out.with_name(f".{out.name}{PARTIAL}")
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)
    try:
        with exportable(model):
            clips = clips_of(frames_TCHW, record["num_frames"], sizes)
            done = [
                _write(part, record, workshop, path, clips, int8, limit, external_above, progress)
                for part, path in _paths(parts_of(model, what, sizes), out)
            ]
        if all(exported.kept for exported in done):
            _settle(workshop, out.parent)
        return [_judged(exported, done) for exported in done]
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def file_format(out: Path) -> Format:
    """What a file's name says it is.

    Raises:
        ConfigError: another suffix.
    """
    kind = SUFFIXES.get(out.suffix.lower())
    if kind is None:
        raise ConfigError(f"OUT must end in {' or '.join(SUFFIXES)}; got '{out}'")
    return kind


def planned_paths(out: Path, *, task: str, what: What) -> list[Path]:
    """The files that an export would write."""
    suffixes = ("", "text", "similarity") if task == "retrieval" and what == "full" else ("",)
    return [_path_of(out, suffix) for suffix in suffixes]


def _paths(parts: Sequence[Part], out: Path) -> list[tuple[Part, Path]]:
    return [(part, _path_of(out, part.suffix)) for part in parts]


def _path_of(out: Path, suffix: str) -> Path:
    return out.with_name(f"{out.stem}.{suffix}{out.suffix}") if suffix else out


def _write(
    part: Part,
    record: dict[str, Any],
    workshop: Path,
    path: Path,
    clips: Sequence[Tensor],
    int8: bool,
    limit: float,
    external_above: int,
    progress: Progress,
) -> Exported:
    here = workshop / path.name
    progress(f"{path.name}: tracing")
    traced = trace(part)
    progress(f"{path.name}: writing")
    matrices = None
    precision = "int8" if int8 else "float32"
    own_record = part_record(record, part, precision=precision)
    if file_format(path) == "pt2":
        write_pt2(traced.program, own_record | {"limits": traced.limits}, here)
        run, limits = open_pt2(here), traced.limits
    else:
        source = workshop / f"float32.{path.name}" if int8 else here
        write_onnx(traced.program, part, own_record, source, external_above=external_above)
        if int8:
            matrices = write_int8(source, here, own_record, external_above=external_above)
            for left in (source, data_file(source)):
                left.unlink(missing_ok=True)
        run, limits = open_onnx(here, part), {}
    progress(f"{path.name}: comparing with the model")
    difference = compare(part, run, clips, limits=limits)
    kept = difference.largest <= limit
    return Exported(path, part.name, precision, file_bytes(here), difference, limit, kept, matrices)


def _settle(workshop: Path, folder: Path) -> None:
    """Flush what was made and give it its name: weights beside a file come before the file that names them."""
    made = sorted(workshop.iterdir(), key=lambda path: path.suffix != ".data")
    for path in made:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for path in made:
        path.replace(folder / path.name)
    sync_folder(folder)


def _judged(exported: Exported, done: Sequence[Exported]) -> Exported:
    return exported if all(other.kept for other in done) else replace(exported, kept=False)
