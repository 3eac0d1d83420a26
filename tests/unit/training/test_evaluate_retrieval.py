"""Ranks of a loader's videos and captions: the slow way, broken videos apart, the same whatever the batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from side4video.backbones import create_backbone
from side4video.backbones.create_text import create_text_tower, create_tokenizer
from side4video.batch import BrokenClip, CaptionBatch
from side4video.errors import DataError, TrainingError
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import Interaction, VideoTextModel
from side4video.training.evaluate import EvaluationStopped
from side4video.training.evaluate_retrieval import evaluate_retrieval

T, SIZE = 3, 64
CAPTIONS = (("a red circle",), ("two squares", "a pair of squares"), ("green",), ("a star", "one star", "stars"))


def make_model(interaction: Interaction = "wti") -> VideoTextModel:
    torch.manual_seed(0)
    backbone = create_backbone("tiny-clip", pretrained=False, precision="fp32", device="cpu")
    text = create_text_tower("tiny-clip", pretrained=False)
    return VideoTextModel(backbone, text, side=SideSpec(width=16, taps=(1,)), interaction=interaction)


def make_batch(records: list[int], broken: tuple[int, ...] = ()) -> CaptionBatch:
    """Each record has its own noise and its own captions."""
    read = [record for record in records if record not in broken]
    tokens = create_tokenizer("tiny-clip", max_words=14)([text for r in read for text in CAPTIONS[r]] or ["nothing"])
    rows = [row for row, record in enumerate(read) for _ in CAPTIONS[record]]
    clips = [torch.randn(T, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(r)) for r in read]
    mask_BT = torch.ones(len(read), T, dtype=torch.bool)
    for row, record in enumerate(read):
        mask_BT[row, 2:] = record != 1
    return CaptionBatch(
        clip_BTCHW=torch.stack(clips) if clips else torch.empty(0, T, 3, SIZE, SIZE),
        mask_BT=mask_BT,
        ids_MQ=tokens.ids_MQ[: len(rows)],
        mask_MQ=tokens.mask_MQ[: len(rows)],
        rows_M=torch.tensor(rows, dtype=torch.int64),
        indices_B=torch.tensor(read, dtype=torch.int64),
        broken=tuple(BrokenClip(r, f"{r}.mp4", "no video stream") for r in records if r in broken),
    )


@pytest.fixture(scope="module")
def model() -> VideoTextModel:
    return make_model()


def test_ranks_equal_the_slow_way(model: VideoTextModel) -> None:
    model.train()
    result = evaluate_retrieval(model, [make_batch([0, 1, 2]), make_batch([3])])
    assert model.training
    model.eval()
    assert result.indices_V.tolist() == [0, 1, 2, 3]
    assert result.videos_M.tolist() == [0, 1, 1, 2, 3, 3, 3]
    for record in range(4):
        one = make_batch([record])
        with torch.no_grad():
            frames = model.encode_video(one.clip_BTCHW)
            for other in range(4):
                asked = make_batch([other])
                sim = model.similarity(model.encode_text(asked.ids_MQ), asked.mask_MQ, frames, one.mask_BT)
                assert torch.allclose(result.sim_MV[result.videos_M == other][:, record], sim[:, 0], atol=1e-5)
    scaled = result.sim_MV.double() * model.logit_scale.detach().exp().double()
    expected = -scaled.log_softmax(1)[torch.arange(7), result.videos_M].mean()
    assert result.loss == pytest.approx(float(expected), rel=1e-5)
    own = result.sim_MV.gather(1, result.videos_M[:, None])
    assert result.report.raw["caption_to_video"].ranks == tuple((result.sim_MV >= own).sum(1).tolist())


def test_batches_and_their_order_change_nothing(model: VideoTextModel) -> None:
    one = evaluate_retrieval(model, [make_batch([0, 1, 2, 3])])
    other = evaluate_retrieval(model, [make_batch([3, 1]), make_batch([2, 0])])
    assert torch.equal(one.indices_V, other.indices_V)
    assert torch.equal(one.videos_M, other.videos_M)
    assert torch.allclose(one.sim_MV, other.sim_MV, atol=1e-5)


def test_broken_videos_and_their_captions_are_left_out(model: VideoTextModel) -> None:
    counted: list[int] = []
    loader = [make_batch([0, 1], broken=(1,)), make_batch([2, 3])]
    result = evaluate_retrieval(model, loader, on_batch=counted.append)
    assert counted == [1, 2]
    assert result.indices_V.tolist() == [0, 2, 3]
    assert result.videos_M.tolist() == [0, 1, 2, 2, 2]
    assert [clip.path for clip in result.broken] == ["1.mp4"]
    value = result.as_dict()
    assert (value["broken"], value["num_videos"], value["num_captions"]) == (1, 3, 5)
    assert value["t2v_r1"] == value["raw"]["caption_to_video"]["r1"]
    assert value["v2t_r1"] == value["raw"]["video_to_caption_groups"]["r1"]
    with pytest.raises(DataError, match=r"no video could be evaluated: 2 are broken; for example 0.mp4: no video"):
        evaluate_retrieval(model, [make_batch([0, 1], broken=(0, 1))])


def test_other_frame_embeddings_can_be_compared(model: VideoTextModel) -> None:
    with torch.no_grad():
        # an untrained side network adds nothing: what is left is the frozen model
        frozen = evaluate_retrieval(model, [make_batch([0, 1, 2])], embed=model.backbone.features)
        plain = evaluate_retrieval(model, [make_batch([0, 1, 2])])
    assert torch.allclose(frozen.sim_MV, plain.sim_MV, atol=1e-4)

    def noise(clip_BTCHW: Tensor) -> Tensor:
        return torch.randn(*clip_BTCHW.shape[:2], model.embed_dim, generator=torch.Generator().manual_seed(1))

    assert not torch.allclose(evaluate_retrieval(model, [make_batch([0, 1, 2])], embed=noise).sim_MV, plain.sim_MV)


def test_mean_pooling_has_its_scale_already() -> None:
    model = make_model("mean")
    result = evaluate_retrieval(model, [make_batch([0, 1, 2, 3])])
    expected = -result.sim_MV.double().log_softmax(1)[torch.arange(7), result.videos_M].mean()
    assert result.loss == pytest.approx(float(expected), rel=1e-6)


def test_stopping_and_numbers_that_are_none(model: VideoTextModel) -> None:
    with pytest.raises(EvaluationStopped):
        evaluate_retrieval(model, [make_batch([0])], should_stop=lambda: True)

    def loader() -> Iterator[CaptionBatch]:
        batch = make_batch([0, 1])
        yield replace(batch, clip_BTCHW=batch.clip_BTCHW * float("nan"))

    with pytest.raises(TrainingError, match=r"similarities must be finite; got NaN or infinity for captions \[0, 1"):
        evaluate_retrieval(model, loader())
