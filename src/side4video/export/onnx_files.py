"""ONNX files: written by torch's exporter, run by ONNX Runtime, and made smaller by its tools. The adapter of `onnx`.

The extra is needed for writing and checking alone; the files themselves need an ONNX runtime and nothing of Python.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from side4video.errors import ConfigError, MissingExtraError
from side4video.export.parts import Part

EXTRA = "onnx"
OPSET = 18
# a protobuf message holds less than 2 GB: what is larger keeps its weights in a file beside it
EXTERNAL_ABOVE = 1_800_000_000
DATA_SUFFIX = ".data"
INT8_BLOCK = 32


def require_onnx() -> None:
    """Raise unless everything of the extra is there.

    Raises:
        MissingExtraError: naming the extra.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, EXTRA) from error


def write_onnx(
    program: ExportedProgram,
    part: Part,
    record: Mapping[str, Any],
    path: Path,
    *,
    external_above: int = EXTERNAL_ABOVE,
) -> None:
    """The program as ONNX, with the record's entries as metadata (each value is JSON). Large weights go beside it.

    Raises:
        ConfigError: an operation has no translation.
        MissingExtraError: the extra is not installed.
    """
    require_onnx()
    try:
        with _quiet():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in part.inputs],
                output_names=[spec.name for spec in part.outputs],
                verbose=False,
            )
    except Exception as error:  # whatever went wrong, the exporter wraps it
        first = str(error).strip().splitlines()
        raise ConfigError(
            f"{part.name}: this model cannot be written as ONNX: {first[0] if first else type(error).__name__}"
        ) from error
    model = made.model
    _strip(model)
    _name_axes(model, part)
    model.metadata_props.update({key: json.dumps(value, ensure_ascii=False) for key, value in record.items()})
    weight_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    made.save(path, external_data=weight_bytes > external_above)


def write_int8(
    source: Path, path: Path, record: Mapping[str, Any], *, external_above: int = EXTERNAL_ABOVE
) -> tuple[int, int]:
    """An ONNX file with its weight matrices in int8 (blocks of 32 with a scale each); how many, and of how many.

    What is multiplied stays float32: only what lies in the file and in memory is smaller. Convolutions, embeddings and
    norms stay as they are. Needs ONNX Runtime to run: `MatMulNBits` is one of its own operations.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    model = onnx.load(str(source))
    constants = {tensor.name for tensor in model.graph.initializer}
    total = sum(node.op_type == "MatMul" and node.input[1] in constants for node in model.graph.node)
    config = DefaultWeightOnlyQuantConfig(block_size=INT8_BLOCK, is_symmetric=True, bits=8)
    with _quiet():
        quantiser = MatMulNBitsQuantizer(model, bits=8, block_size=INT8_BLOCK, is_symmetric=True, algo_config=config)
        quantiser.process()
    packed: Any = quantiser.model
    packed = packed.model
    done = sum(node.op_type == "MatMulNBits" for node in packed.graph.node)
    del packed.metadata_props[:]
    onnx.helper.set_model_props(packed, {key: json.dumps(value, ensure_ascii=False) for key, value in record.items()})
    weight_bytes = sum(len(tensor.raw_data) for tensor in packed.graph.initializer)
    onnx.save_model(
        packed, str(path), save_as_external_data=weight_bytes > external_above, location=data_file(path).name
    )
    return done, total


def open_onnx(path: Path, part: Part) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A function that runs a file on ONNX Runtime's CPU."""
    session = open_session(path)

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        feed = {spec.name: tensor.numpy() for spec, tensor in zip(part.inputs, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run([spec.name for spec in part.outputs], feed)]

    return run


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """A session of ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _strip(model: Any) -> None:
    """Leave out what the exporter notes for debugging: where on this machine the code of each operation stands."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        for node in function:
            node.metadata_props.clear()


def _name_axes(model: Any, part: Part) -> None:
    """Free sizes under the part's words for them, in place of the exporter's symbols."""
    words: dict[str, str] = {}
    for spec, value in zip(part.inputs, model.graph.inputs, strict=True):
        words |= {
            str(dim.value): word for word, dim in zip(spec.shape, value.shape, strict=True) if isinstance(word, str)
        }
    symbol = re.compile("|".join(rf"\b{name}\b" for name in words) or r"(?!)")
    produced = (value for node in model.graph.all_nodes() for value in node.outputs)
    for value in (*model.graph.inputs, *model.graph.outputs, *produced):
        shape: Any = value.shape or ()
        for axis, dim in enumerate(shape):
            if not isinstance(dim, int) and dim.value is not None:
                shape[axis] = symbol.sub(lambda found: words[found[0]], str(dim.value))


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """The libraries' progress and notes for their own developers are kept from the screen."""
    levels = {name: logging.getLogger(name).level for name in ("onnxscript", "onnx_ir", "torch.onnx", "onnxruntime")}
    root_quantiser = "onnxruntime.quantization.matmul_nbits_quantizer"
    levels[root_quantiser] = logging.getLogger(root_quantiser).level
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def data_file(path: Path) -> Path:
    """Where the weights of a large ONNX file lie."""
    return path.with_name(f"{path.name}{DATA_SUFFIX}")


def file_bytes(path: Path) -> int:
    """Bytes of a file and of the weights beside it."""
    return sum(part.stat().st_size for part in (path, data_file(path)) if part.exists())
