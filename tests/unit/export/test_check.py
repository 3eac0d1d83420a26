from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from side4video.errors import DataError
from side4video.export.check import clips_of, compare
from side4video.export.parts import Part, Sizes, TensorSpec


class Doubled(nn.Module):
    def forward(self, clip_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits_BK = clip_BTCHW.mean((1, 3, 4)) * 40
        return logits_BK, logits_BK.softmax(-1)


PART = Part(
    "full",
    "",
    Doubled(),
    (TensorSpec("clip", ("batch", "frames", 3, 2, 2)),),
    (TensorSpec("logits", ("batch", 3)), TensorSpec("scores", ("batch", 3))),
    lambda clip: (clip,),
)
FRAMES = torch.arange(5.0)[:, None, None, None].expand(5, 3, 2, 2) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]


def test_free_sizes_are_tried_with_one_with_more_and_with_several_clips() -> None:
    clips = clips_of(FRAMES, 4, Sizes())
    assert [tuple(clip.shape[:2]) for clip in clips] == [(1, 4), (3, 7), (1, 1)]
    assert [tuple(clip.shape[:2]) for clip in clips_of(FRAMES, 4, Sizes(2, 6))] == [(2, 6)]
    assert [tuple(clip.shape[:2]) for clip in clips_of(FRAMES, 4, Sizes("dynamic", 6))] == [(1, 6), (3, 6)]
    assert [tuple(clip.shape[:2]) for clip in clips_of(FRAMES, 4, Sizes(2))] == [(2, 4), (2, 7), (2, 1)]
    # rows of a batch are different clips
    assert not torch.equal(clips[1][0], clips[1][1])
    with pytest.raises(DataError, match="no frame to compare on"):
        clips_of(FRAMES[:0], 4, Sizes())


def test_the_largest_difference_counts_logits_in_proportion_and_scores_as_they_are() -> None:
    def run(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        logits_BK, scores_BK = PART.module(*tensors)
        return [logits_BK + 4.8, scores_BK - 0.25]

    clip = FRAMES[None, 1:2]  # logits 40, 80, 120
    found = compare(PART, run, [clip])
    assert found.by_output["logits"] == pytest.approx(0.04, rel=1e-5)
    assert found.by_output["scores"] == pytest.approx(0.25, rel=1e-5)
    assert found.largest == found.by_output["scores"]
    assert (found.clips, found.same_best) == (1, 1.0)


def test_what_is_no_number_or_of_another_shape_is_infinitely_far() -> None:
    def broken(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        logits_BK, scores_BK = PART.module(*tensors)
        return [logits_BK * float("nan"), scores_BK]

    def short(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        logits_BK, scores_BK = PART.module(*tensors)
        return [logits_BK[:, [2, 0, 1]], scores_BK[:, :1]]

    assert compare(PART, broken, [FRAMES[None]]).by_output["logits"] == float("inf")
    assert compare(PART, broken, [FRAMES[None]]).largest == float("inf")
    found = compare(PART, short, [FRAMES[None]])
    assert found.by_output["scores"] == float("inf")
    assert found.same_best == 0.0


def test_what_is_outside_the_limits_is_left_out() -> None:
    seen: list[int] = []

    def run(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        seen.append(len(tensors[0]))
        return list(PART.module(*tensors))

    clips = clips_of(FRAMES, 4, Sizes())
    assert compare(PART, run, clips, limits={"batch": (2, 9)}).clips == 3
    assert seen == [3]
    assert compare(PART, run, clips).clips == 5
