"""A part as one program of torch.export, with free sizes where the part names them; and as a .pt2 file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from side4video.errors import ConfigError
from side4video.export.parts import MAX_SIZE, Part, TensorSpec

RECORD = "side4video.json"
# no two sizes of one part are equal: what belongs together must show in the names, not in the numbers
_TRACED = {"batch": 2, "frames": 5, "captions": 3, "words": 7, "videos": 4}
# torch types neither of the two
_shapes: Any = _config
_DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


def trace(part: Part) -> ExportedProgram:
    """The part as a program. Nothing is computed: the tensors are stand-ins.

    Raises:
        ConfigError: an operation of the model cannot be exported, or not with free sizes.
    """
    limits = {name: part.limits.get(name, (1, MAX_SIZE)) for name in sorted(_free(part))}
    dims = {name: Dim(name, min=least, max=most) for name, (least, most) in limits.items()}
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in part.inputs
    )
    example = tuple(_stand_in(spec) for spec in part.inputs)
    # modules that take any number of tensors see them as one argument
    variadic = part.module.forward.__code__.co_flags & 0x04
    try:
        # sizes of 1 are sizes like others, else a file would refuse clips of one or two frames
        with torch.no_grad(), _shapes.patch(backed_size_oblivious=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                part.module, example, dynamic_shapes=(shapes,) if variadic else shapes, strict=False
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"{part.name}: this model cannot be exported: {_first_line(error)}") from error
    # a file would carry the stand-ins, and refuse one clip of one frame for the sake of a memory layout
    program.example_inputs = None
    program._guards_code = [guard for guard in program._guards_code if not guard.endswith("!= 1")]  # pyright: ignore[reportPrivateUsage]
    _forget_sources(program)
    return program


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
