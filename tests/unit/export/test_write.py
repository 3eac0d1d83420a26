from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from side4video.errors import ConfigError
from side4video.export import write
from side4video.export.parts import Sizes
from side4video.export.trace import Traced
from side4video.export.write import export_model, file_format, planned_paths
from unit.export.small_models import NUM_FRAMES, make_classifier

FIXED = Sizes(2, NUM_FRAMES)
RECORD = {"num_frames": NUM_FRAMES}


def test_a_file_that_is_too_far_from_the_model_is_not_kept(
    tmp_path: Path, frames_TCHW: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_classifier("open_clip")
    honest = write.trace

    def after_the_trace(part: object) -> object:
        traced = honest(part)  # pyright: ignore[reportArgumentType]
        # what a wrong translation looks like
        bias_K = traced.program.state_dict["model.head.bias"]
        traced.program.state_dict["model.head.bias"] = torch.nn.Parameter(bias_K.detach() + torch.arange(5) * 1e-2)
        return traced

    monkeypatch.setattr(write, "trace", after_the_trace)
    (done,) = export_model(model, RECORD, tmp_path / "m.pt2", frames_TCHW, sizes=FIXED)
    assert not done.kept
    assert 1e-3 < done.difference.largest < 0.1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, frames_TCHW: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_program: object, _record: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    # what an earlier attempt left when it was killed
    (tmp_path / ".m.pt2.partial").mkdir()
    (tmp_path / ".m.pt2.partial" / "m.pt2").write_bytes(b"a part")
    monkeypatch.setattr(write, "trace", lambda _: Traced(None, {}))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(write, "write_pt2", full)
    with pytest.raises(OSError, match="No space left"):
        export_model(make_classifier("open_clip"), RECORD, tmp_path / "m.pt2", frames_TCHW, sizes=FIXED)
    assert list(tmp_path.iterdir()) == []


def test_a_pt2_file_holds_the_record_and_no_place_of_this_machine(tmp_path: Path, frames_TCHW: Tensor) -> None:
    said: list[str] = []
    out = tmp_path / "m.pt2"
    (done,) = export_model(make_classifier("open_clip"), RECORD, out, frames_TCHW, progress=said.append)
    assert done.kept
    # one clip of one frame was among them: a memory layout must not forbid it
    assert done.difference.clips == 5
    assert said == ["m.pt2: tracing", "m.pt2: writing", "m.pt2: comparing with the model"]
    extra = {"side4video.json": ""}
    program = torch.export.load(out, extra_files=extra)
    about = json.loads(extra["side4video.json"])
    assert (about["part"], about["num_frames"]) == ("full", NUM_FRAMES)
    assert about["limits"] == {"batch": [1, 1 << 16], "frames": [1, 1 << 16]}
    # an equation among its guards would be a size of the tensors that it was traced with
    assert not any("==" in guard for guard in program._guards_code)  # pyright: ignore[reportPrivateUsage]
    assert program.module()(torch.zeros(2, NUM_FRAMES, 3, 32, 32))[1].shape == (2, 5)
    with zipfile.ZipFile(out) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(torch.__file__).parent).encode() not in content
    assert b"small_models.py" not in content


@pytest.mark.parametrize(
    ("out", "int8", "message"),
    [("m.bin", False, r"OUT must end in .onnx or .pt2; got 'm.bin'"), ("m.pt2", True, r"int8 is for .onnx files")],
)
def test_what_is_not_allowed_says_so(out: str, int8: bool, message: str, frames_TCHW: Tensor) -> None:
    with pytest.raises(ConfigError, match=message):
        export_model(make_classifier("open_clip"), RECORD, Path(out), frames_TCHW, int8=int8)


def test_the_files_of_a_retrieval_model_are_named_after_their_parts() -> None:
    assert [p.name for p in planned_paths(Path("a/m.onnx"), task="retrieval", what="full")] == [
        "m.onnx", "m.text.onnx", "m.similarity.onnx",
    ]  # fmt: skip
    assert planned_paths(Path("a/m.onnx"), task="retrieval", what="side") == [Path("a/m.onnx")]
    assert file_format(Path("M.ONNX")) == "onnx"
