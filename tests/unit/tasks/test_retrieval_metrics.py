"""Retrieval metrics against the released code's values and a slow count; ties, several captions, dual softmax."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from side4video.tasks import retrieval_metrics
from side4video.tasks.retrieval_metrics import (
    PROTOCOLS,
    RetrievalRow,
    dual_softmax,
    retrieval_report,
    similarity_matrix,
)


def stored(parity_dir: Path) -> list[dict[str, Any]]:
    return json.loads((parity_dir / "metrics.json").read_text())["cases"]


def videos_of(case: dict[str, Any]) -> list[int] | None:
    cuts = case["cut_off_points"]
    if cuts is None:
        return None
    starts = [0, *cuts[:-1]]
    return [video for video, (start, end) in enumerate(zip(starts, cuts, strict=True)) for _ in range(end - start)]


def assert_row(row: RetrievalRow, expected: dict[str, Any]) -> None:
    for ours, theirs in ((row.r1, "R1"), (row.r5, "R5"), (row.r10, "R10")):
        assert 100 * ours == pytest.approx(expected[theirs], rel=1e-6), theirs
    assert row.median_rank == expected["MedianR"] == expected["MR"]
    assert row.mean_rank == pytest.approx(expected["MeanR"], rel=1e-9)
    if "cols" in expected:
        assert list(row.ranks) == [col + 1 for col in expected["cols"]]


def test_without_ties_they_equal_the_released_code(parity_dir: Path) -> None:
    cases = [case for case in stored(parity_dir) if "no ties" in case["name"]]
    assert len(cases) == 4
    for case in cases:
        report = retrieval_report(torch.tensor(case["sim_text_by_video"]), videos_of(case))
        assert_row(report.raw["caption_to_video"], case["expected"]["text_to_video"])
        assert_row(report.raw["video_to_caption_groups"], case["expected"]["video_to_text"])
        if case["cut_off_points"] is None:
            assert report.raw["video_to_any_caption"].ranks == report.raw["video_to_caption_groups"].ranks


def test_with_ties_a_query_counts_once_at_its_worst_place(parity_dir: Path) -> None:
    cases = [case for case in stored(parity_dir) if "no ties" not in case["name"]]
    assert len(cases) == 3
    for case in cases:
        sim_MV = torch.tensor(case["sim_text_by_video"])
        videos = videos_of(case) or list(range(len(sim_MV)))
        report = retrieval_report(sim_MV, videos)
        for row, direction in (
            (report.raw["caption_to_video"], "text_to_video"),
            (report.raw["video_to_caption_groups"], "video_to_text"),
        ):
            # the released code lists every tied place of a query and divides by their number; ours is the worst of them
            if "cols" in case["expected"][direction]:
                assert {rank - 1 for rank in row.ranks} <= set(case["expected"][direction]["cols"])
        assert report.raw["caption_to_video"].ranks == tuple(
            1 + sum(float(sim_MV[m, v]) >= float(sim_MV[m, own]) for v in range(sim_MV.shape[1]) if v != own)
            for m, own in enumerate(videos)
        )
    everything_equal = retrieval_report(torch.ones(5, 5))
    assert everything_equal.t2v_r1 == 0
    assert {row.mean_rank for row in everything_equal.raw.values()} == {5}


def test_protocols_equal_a_slow_count() -> None:
    generator = torch.Generator().manual_seed(0)
    videos = [2, 0, 0, 4, 2, 2, 5, 0, 4]  # videos 1 and 3 have no captions: distractors
    sim_MV = torch.randint(0, 12, (9, 6), generator=generator).double() / 12
    report = retrieval_report(sim_MV, videos)
    sim = sim_MV.tolist()
    groups = [2, 0, 4, 5]
    for video in sorted(groups):
        best = {g: max(sim[m][video] for m in range(9) if videos[m] == g) for g in groups}
        groups_rank = 1 + sum(best[g] >= best[video] for g in groups if g != video)
        any_rank = 1 + sum(sim[m][video] >= best[video] for m in range(9) if videos[m] != video)
        place = sorted(groups).index(video)
        assert report.raw["video_to_caption_groups"].ranks[place] == groups_rank
        assert report.raw["video_to_any_caption"].ranks[place] == any_rank
    assert report.num_captions == 9
    assert report.num_videos == 6
    assert set(report.raw) == set(report.dsl) == set(PROTOCOLS)
    assert report.as_dict()["raw"]["video_to_any_caption"]["num_queries"] == 4


def test_dual_softmax_is_a_row_of_its_own() -> None:
    # video 0 attracts every caption; looking at all captions at once tells that it belongs to the first
    sim_MV = torch.tensor([[0.90, 0.10, 0.20], [0.70, 0.68, 0.10], [0.75, 0.15, 0.70]])
    report = retrieval_report(sim_MV)
    assert report.raw["caption_to_video"].ranks == (1, 2, 2)
    assert report.dsl["caption_to_video"].ranks == (1, 1, 1)
    column = sim_MV[:, 0].double()
    expected = column * (100 * column).exp() / (100 * column).exp().sum()
    torch.testing.assert_close(dual_softmax(sim_MV.double(), dim=0)[:, 0], expected)
    negative = torch.tensor([[-0.9, 0.1], [-0.2, -0.3]])
    assert torch.equal(dual_softmax(negative, dim=0) < 0, negative < 0)
    assert dual_softmax(negative, dim=1)[0, 0] == negative[0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_scores_are_an_error(bad: float) -> None:
    sim_MV = torch.zeros(4, 4)
    sim_MV[2, 3] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity for captions \[2\]"):
        retrieval_report(sim_MV)


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4 captions and 3 videos: say which video"):
        retrieval_report(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"must have 4 entries; got \(3,\)"):
        retrieval_report(torch.zeros(4, 3), [0, 1, 2])
    with pytest.raises(ValueError, match=r"must lie in 0\.\.2; got 0\.\.3"):
        retrieval_report(torch.zeros(4, 3), [0, 1, 2, 3])
    with pytest.raises(ValueError, match="matrix of captions by videos"):
        retrieval_report(torch.zeros(0, 3))


def test_the_matrix_in_pieces_is_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Model:
        def similarity(self, tokens: torch.Tensor, mask: torch.Tensor, frames: torch.Tensor, _: Any) -> torch.Tensor:
            calls.append(len(tokens))
            return torch.einsum("mqe,vte->mv", tokens * mask[..., None], frames)

    generator = torch.Generator().manual_seed(1)
    tokens, frames = torch.randn(7, 3, 4, generator=generator), torch.randn(5, 2, 4, generator=generator)
    mask = torch.rand(7, 3, generator=generator) > 0.3
    args = (Model(), tokens, mask, frames, torch.ones(5, 2))
    whole = similarity_matrix(*args)  # type: ignore[arg-type]
    monkeypatch.setattr(retrieval_metrics, "CHUNK_ELEMENTS", 3 * 3 * 5 * 2)
    torch.testing.assert_close(similarity_matrix(*args), whole)  # type: ignore[arg-type]
    assert calls == [7, 3, 3, 1]
