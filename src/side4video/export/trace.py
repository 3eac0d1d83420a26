"""A part as one program of torch.export, with free sizes where the part names them; and as a .pt2 file."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from side4video.errors import ConfigError
from side4video.export.parts import LEAST, MAX_SIZE, Part, TensorSpec

RECORD = "side4video.json"
_VIOLATED = "Constraints violated"
# no two sizes of one part are equal: what belongs together must show in the names, not in the numbers
_TRACED = {"batch": 2, "frames": 5, "captions": 3, "words": 7, "videos": 4}
# torch types neither of the two
_shapes: Any = _config
_DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


@dataclass(frozen=True)
class Traced:
    """A program, and the least and the most that each of its free sizes may be where the program is run by torch."""

    program: ExportedProgram
    limits: dict[str, tuple[int, int]]


def trace(part: Part) -> Traced:
    """The part as a program. Nothing is computed: the tensors are stand-ins.

    Sizes of 1 are sizes like others, where torch lets them: some of its operations lay memory out otherwise for one,
    and then the least is two. A file of ONNX knows no such difference.

    Raises:
        ConfigError: an operation of the model cannot be exported, or not with free sizes.
    """
    limits = {name: part.limits.get(name, (1, MAX_SIZE)) for name in sorted(_free(part))}
    try:
        try:
            program = _export(part, limits)
        except RuntimeError as error:
            if _VIOLATED not in str(error):
                raise
            limits = {name: (max(LEAST, least), most) for name, (least, most) in limits.items()}
            program = _export(part, limits)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"{part.name}: this model cannot be exported: {_first_line(error)}") from error
    # a file would carry the stand-ins
    program.example_inputs = None
    _forget_sources(program)
    return Traced(program, limits)


def _export(part: Part, limits: Mapping[str, tuple[int, int]]) -> ExportedProgram:
    dims = {name: Dim(name, min=least, max=most) for name, (least, most) in limits.items()}
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in part.inputs
    )
    # modules that take any number of tensors see them as one argument
    variadic = part.module.forward.__code__.co_flags & inspect.CO_VARARGS
    with torch.no_grad(), _shapes.patch(backed_size_oblivious=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            part.module,
            tuple(_stand_in(spec) for spec in part.inputs),
            dynamic_shapes=(shapes,) if variadic else shapes,
            strict=False,
        )


def write_pt2(program: ExportedProgram, record: Mapping[str, Any], path: Path) -> None:
    """The program and its record as a file of torch.export, which `torch.export.load` reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={RECORD: json.dumps(record, ensure_ascii=False)})


def open_pt2(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A function that runs a file."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        found = module(*tensors)
        return list(found) if isinstance(found, tuple) else [found]

    return run


def _free(part: Part) -> set[str]:
    return {size for spec in part.inputs for size in spec.shape if isinstance(size, str)}


def _stand_in(spec: TensorSpec) -> Tensor:
    shape = [_TRACED[size] if isinstance(size, str) else size for size in spec.shape]
    return torch.zeros(shape, dtype=_DTYPES[spec.dtype])


def _forget_sources(program: ExportedProgram) -> None:
    """Leave out where on this machine the code of each operation stands."""
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if graph is not None else ():
            node.meta.pop("stack_trace", None)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
