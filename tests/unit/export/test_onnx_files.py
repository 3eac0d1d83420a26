from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

import side4video
from side4video.errors import MissingExtraError
from side4video.export import onnx_files
from side4video.export.check import INT8_TOLERANCE, TOLERANCE, clips_of, compare
from side4video.export.onnx_files import data_file, open_onnx, open_session, require_onnx, write_int8
from side4video.export.parts import Sizes, parts_of
from unit.export.conftest import Shared
from unit.export.small_models import NUM_CLASSES, NUM_FRAMES


def test_any_batch_and_any_number_of_frames_give_the_models_numbers(shared: Shared) -> None:
    assert shared.exported.kept
    assert shared.exported.difference.largest < TOLERANCE / 10
    session = open_session(shared.path)
    for batch, frames in ((1, 1), (1, 2), (2, 6), (4, 11)):
        clip_BTCHW = torch.randn(batch, frames, 3, 32, 32)
        logits, scores = session.run(None, {"clip": clip_BTCHW.numpy()})
        with torch.no_grad():
            wanted = shared.model(clip_BTCHW)
        assert (torch.from_numpy(logits) - wanted).abs().max() < TOLERANCE / 10
        assert (torch.from_numpy(scores) - wanted.softmax(-1)).abs().max() < TOLERANCE / 10


def test_the_file_says_how_to_feed_it(shared: Shared) -> None:
    properties = open_session(shared.path).get_modelmeta().custom_metadata_map
    about = {key: json.loads(value) for key, value in properties.items()}
    backbone = shared.model.backbone
    assert about == {
        "side4video": side4video.__version__,
        "task": "recognition",
        "part": "full",
        "precision": "float32",
        "num_frames": NUM_FRAMES,
        "sampling": "uniform",
        "resize": "short",
        "image_size": [32, 32],
        "interpolation": backbone.preprocessing.interpolation,
        "mean": list(backbone.preprocessing.mean),
        "std": list(backbone.preprocessing.std),
        "backbone": {"name": backbone.name, "hash": backbone.content_hash()},
        "weights_hash": "0123",
        "taps": [0],
        "class_names": [f"class {number}" for number in range(NUM_CLASSES)],
        "inputs": [{"name": "clip", "shape": ["batch", "frames", 3, 32, 32], "dtype": "float32"}],
        "outputs": [
            {"name": name, "shape": ["batch", NUM_CLASSES], "dtype": "float32"} for name in ("logits", "scores")
        ],
    }


def test_axes_that_are_free_have_their_names_and_the_opset_is_18(shared: Shared) -> None:
    model = onnx.load(str(shared.path))
    shape = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", "frames", 3, 32, 32]
    assert [(opset.domain, opset.version) for opset in model.opset_import if opset.domain == ""] == [("", 18)]
    onnx.checker.check_model(str(shared.path))


def test_large_weights_lie_beside_the_file_under_its_name(shared: Shared) -> None:
    assert data_file(shared.path).name == "own.onnx.data"
    assert {path.name for path in shared.path.parent.iterdir()} >= {"own.onnx", "own.onnx.data"}
    model = onnx.load(str(shared.path), load_external_data=False)
    locations = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
    assert locations == {"own.onnx.data"}
    assert shared.exported.num_bytes == sum(p.stat().st_size for p in (shared.path, data_file(shared.path)))


def test_nothing_in_the_file_says_where_it_was_made(shared: Shared) -> None:
    content = shared.path.read_bytes() + data_file(shared.path).read_bytes()
    for place in (Path(side4video.__file__).parent, Path(torch.__file__).parent, shared.path.parent):
        assert str(place).encode() not in content


def test_whatever_the_exporter_notes_of_this_machine_is_left_out(shared: Shared) -> None:
    onnx_ir = pytest.importorskip("onnx_ir", reason="the export extra is not installed")
    model, place = onnx_ir.load(str(shared.path)), "/home/somebody/model.py"
    for node in model.graph.all_nodes():
        node.metadata_props["pkg.torch.onnx.stack_trace"] = node.doc_string = f'File "{place}", line 7'
    for thing in (model, model.graph, *model.graph.inputs, *model.graph.outputs):
        thing.metadata_props["note"] = place
    assert place.encode() in onnx_ir.to_proto(model).SerializeToString()
    onnx_files._strip(model)
    assert place.encode() not in onnx_ir.to_proto(model).SerializeToString()


def test_int8_keeps_most_of_the_numbers_in_half_the_room(shared: Shared, tmp_path: Path, frames_TCHW: Tensor) -> None:
    (part,) = parts_of(shared.model, "full", Sizes())
    done, total = write_int8(shared.path, tmp_path / "small.onnx", {"precision": "int8"})
    assert done == total
    assert done >= 10
    clips = clips_of(frames_TCHW, NUM_FRAMES, Sizes())
    found = compare(part, open_onnx(tmp_path / "small.onnx", part), clips)
    assert TOLERANCE < found.largest < INT8_TOLERANCE  # it is approximate, and not by much
    weights = onnx.load(str(tmp_path / "small.onnx")).graph.initializer
    assert sum(tensor.data_type == onnx.TensorProto.UINT8 for tensor in weights) == done
    about = open_session(tmp_path / "small.onnx").get_modelmeta().custom_metadata_map
    assert about == {"precision": '"int8"'}


def test_int8_of_a_large_model_keeps_its_weights_beside_it_too(shared: Shared, tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    write_int8(shared.path, path, {}, external_above=0)
    assert data_file(path).stat().st_size > 0
    assert open_session(path).run(["scores"], {"clip": torch.zeros(1, 2, 3, 32, 32).numpy()})[0].shape == (1, 5)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_the_error_names_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed; .*side4video\[onnx\]"):
        require_onnx()
