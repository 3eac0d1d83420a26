"""Every family and dialect goes into a file that gives the model's numbers; and what the parts of a model are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from side4video.backbones import create_backbone
from side4video.errors import ConfigError
from side4video.export.check import TOLERANCE, clips_of, compare
from side4video.export.onnx_files import open_onnx, write_onnx
from side4video.export.parts import Part, Sizes, exportable, parts_of
from side4video.export.trace import open_pt2, trace, write_pt2
from side4video.export.write import export_model
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from unit.export.small_models import FAMILIES, NUM_FRAMES, make_classifier, make_text_model, own_clip

OTHERS = [name for name in FAMILIES if name != "open_clip"]  # that one is the shared file


@pytest.mark.parametrize("family", OTHERS)
def test_a_family_in_onnx_gives_the_models_numbers(family: str, tmp_path: Path) -> None:
    model = make_classifier(family)
    frames_TCHW = torch.randn(7, 3, *model.backbone.preprocessing.image_size)
    (done,) = export_model(
        model, {"num_frames": NUM_FRAMES}, tmp_path / "m.onnx", frames_TCHW, sizes=Sizes(2, NUM_FRAMES)
    )
    assert done.kept
    assert done.difference.largest < TOLERANCE / 10
    assert done.difference.clips == 2
    # the model says different things of different clips: equal outputs would prove nothing
    with torch.no_grad():
        logits_BK = model(torch.randn(2, NUM_FRAMES, 3, *model.backbone.preprocessing.image_size))
    assert (logits_BK[0] - logits_BK[1]).abs().max() > 100 * TOLERANCE


def test_the_side_network_alone_takes_tokens_by_the_name_of_their_tap(tmp_path: Path, frames_TCHW: Tensor) -> None:
    model = make_classifier("open_clip")
    with exportable(model):
        (part,) = parts_of(model, "side", Sizes())
        write_pt2(trace(part).program, {}, tmp_path / "side.pt2")
        assert [spec.name for spec in part.inputs] == ["clip", "tokens_0"]
        assert part.inputs[1].shape == ("batch", "frames", 5, 24)
        found = compare(part, open_pt2(tmp_path / "side.pt2"), clips_of(frames_TCHW, NUM_FRAMES, Sizes()))
        assert found.largest < TOLERANCE / 10
        # a file carries weights, and not the clips that it was traced with
        assert torch.export.load(tmp_path / "side.pt2").example_inputs is None


def test_without_a_stem_no_pixels_are_asked_for() -> None:
    (part,) = parts_of(make_classifier("siglip-no-class"), "side", Sizes(3))
    assert [spec.name for spec in part.inputs] == ["tokens_0"]
    assert part.inputs[0].shape[0] == 3


def test_a_retrieval_model_is_three_files_and_one_caption_is_like_many(tmp_path: Path, frames_TCHW: Tensor) -> None:
    model = make_text_model()
    with exportable(model):
        video, text, similarity = parts_of(model, "full", Sizes(2, NUM_FRAMES))
        assert [(part.name, part.suffix) for part in (video, text, similarity)] == [
            ("full", ""), ("text", "text"), ("similarity", "similarity"),
        ]  # fmt: skip
        clips = clips_of(frames_TCHW, NUM_FRAMES, Sizes(2, NUM_FRAMES))
        for part in (text, similarity):
            path = tmp_path / f"{part.name}.onnx"
            write_onnx(trace(part).program, part, {}, path)
            assert compare(part, open_onnx(path, part), clips).largest < TOLERANCE / 10
        _check_one_caption(tmp_path / "text.onnx", text)
        write_pt2(trace(video).program, {}, tmp_path / "video.pt2")
        assert compare(video, open_pt2(tmp_path / "video.pt2"), clips).largest < TOLERANCE / 10
        # the side network alone wants the last block's tokens, which a frame's embedding starts from
        (side,) = parts_of(model, "side", Sizes())
        names = [spec.name for spec in side.inputs]
        assert names == ["clip", "tokens_0"]


def _check_one_caption(path: Path, part: Part) -> None:
    ids_MQ = torch.tensor([[5, 7, 9]])
    (found,) = open_onnx(path, part)((ids_MQ,))
    with torch.no_grad():
        wanted = part.module(ids_MQ)
    assert (found - wanted).abs().max() < TOLERANCE / 10


def test_the_model_is_as_it_was_afterwards() -> None:
    model = VideoClassifier(
        create_backbone(own_clip().visual), 3, side=SideSpec(width=16), memory="lean", frame_slice=2
    ).train()
    with exportable(model):
        assert (model.training, model.side.memory, model.video.frame_slice) == (False, "fast", None)
    assert (model.training, model.side.memory, model.video.frame_slice) == (True, "lean", 2)


def test_frozen_weights_that_are_not_plain_float32_are_refused() -> None:
    model = VideoClassifier(create_backbone(own_clip().visual, precision="bf16"), 3, side=SideSpec(width=16))
    with pytest.raises(ConfigError, match=r"float32, all in memory; got torch.bfloat16"), exportable(model):
        pass
