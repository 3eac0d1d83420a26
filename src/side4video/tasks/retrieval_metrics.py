"""Retrieval metrics: R@1/5/10, median and mean rank, text to video and video to text.

A rank counts from 1. A wrong answer that scores as high as the right one comes before it: ties count against us. (The
released code counts every tied place of a square matrix as a query of its own, so its numbers differ where there are
ties.)

Protocols, by name:

- `caption_to_video`: every caption is a query, also when a video has several; it ranks the videos.
- `video_to_caption_groups`: every video ranks the groups of captions that belong to one video; a group scores as its
  best caption. This is what MSVD and VATEX papers report, and the released code; with one caption a video it is the
  usual video-to-text.
- `video_to_any_caption`: every video ranks all single captions; its rank is that of the first right one.

Dual softmax (DSL) reweights a whole matrix by looking at all queries at once, which no real search can: its rows are
separate, never mixed with the raw ones.

Source: dual softmax, arXiv:2109.04290. We differ in one point: a negative similarity is left as it is, because a small
weight would lift it instead of lowering it.
Shapes: G, groups of captions: the videos that have any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from side4video.tasks.retrieval import VideoTextModel

Protocol = Literal["caption_to_video", "video_to_caption_groups", "video_to_any_caption"]
PROTOCOLS: tuple[Protocol, ...] = ("caption_to_video", "video_to_caption_groups", "video_to_any_caption")
RECALLS = (1, 5, 10)
# a row's numbers once for every pair in memory: cosines of all tokens and frames, float32
CHUNK_ELEMENTS = 2**26


@dataclass(frozen=True)
class RetrievalRow:
    """One protocol's numbers. `r1`, `r5` and `r10` are shares in 0..1; `ranks` has one entry a query, from 1."""

    protocol: Protocol
    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float
    ranks: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers that `--json` prints."""
        return {
            "r1": self.r1,
            "r5": self.r5,
            "r10": self.r10,
            "median_rank": self.median_rank,
            "mean_rank": self.mean_rank,
            "num_queries": len(self.ranks),
        }


@dataclass(frozen=True)
class RetrievalReport:
    """Rows of the plain similarities in `raw`, and of the dual softmax in `dsl`, each by protocol."""

    raw: dict[Protocol, RetrievalRow]
    dsl: dict[Protocol, RetrievalRow]
    num_captions: int
    num_videos: int

    @property
    def t2v_r1(self) -> float:
        """R@1 of captions looking for videos, without dual softmax."""
        return self.raw["caption_to_video"].r1

    def as_dict(self) -> dict[str, Any]:
        """The numbers that `--json` prints."""
        return {
            "raw": {name: row.as_dict() for name, row in self.raw.items()},
            "dsl": {name: row.as_dict() for name, row in self.dsl.items()},
            "num_captions": self.num_captions,
            "num_videos": self.num_videos,
        }


def retrieval_report(
    sim_MV: Tensor, videos_of_captions: Sequence[int] | None = None, *, dsl_scale: float = 100.0
) -> RetrievalReport:
    """All protocols of a similarity matrix, raw and with dual softmax.

    `videos_of_captions` gives each caption's video (its column); without it caption i belongs to video i. Videos
    without captions are distractors. `dsl_scale` multiplies similarities before the softmax: 100 for cosines, 1 for
    similarities that are scaled already (mean pooling).

    Raises:
        ValueError: NaN or infinity, no captions, or captions and videos that do not fit the matrix.
    """
    videos_M = _check(sim_MV, videos_of_captions)
    sim_MV = sim_MV.detach().cpu().double()
    by_text, by_video = dual_softmax(sim_MV, dim=0, scale=dsl_scale), dual_softmax(sim_MV, dim=1, scale=dsl_scale)
    return RetrievalReport(
        raw={name: _row(name, sim_MV, videos_M) for name in PROTOCOLS},
        dsl={name: _row(name, by_text if name == "caption_to_video" else by_video, videos_M) for name in PROTOCOLS},
        num_captions=sim_MV.shape[0],
        num_videos=sim_MV.shape[1],
    )


def dual_softmax(sim_MV: Tensor, *, dim: int, scale: float = 100.0) -> Tensor:
    """Similarities times their softmax along the queries: `dim` 0 when captions ask for videos, 1 the other way."""
    weight_MV = (sim_MV * scale).softmax(dim)
    return torch.where(sim_MV > 0, sim_MV * weight_MV, sim_MV)


def ranks_of(protocol: Protocol, sim_MV: Tensor, videos_M: Tensor) -> Tensor:
    """The rank of the right answer for every query of a protocol, from 1; ties count against us.

    `videos_M` is each caption's video. Queries are in order of captions, or of the videos that have captions.
    """
    if protocol == "caption_to_video":
        own_M1 = sim_MV.gather(1, videos_M[:, None])
        return (sim_MV >= own_M1).sum(1)
    groups_G, group_of_M = videos_M.unique(return_inverse=True)
    # columns are the asking videos, rows the groups of captions; both in order of the videos that have captions
    asked_MG = sim_MV[:, groups_G]
    best_GG = torch.full((len(groups_G), len(groups_G)), float("-inf"), dtype=sim_MV.dtype)
    best_GG.scatter_reduce_(0, group_of_M[:, None].expand_as(asked_MG), asked_MG, "amax")
    own_G = best_GG.diagonal()
    if protocol == "video_to_caption_groups":
        return (best_GG >= own_G).sum(0)
    foreign_MG = group_of_M[:, None] != torch.arange(len(groups_G))
    return 1 + ((asked_MG >= own_G) & foreign_MG).sum(0)


@torch.no_grad()
def similarity_matrix(
    model: VideoTextModel, tokens_MQE: Tensor, mask_MQ: Tensor, frames_VTE: Tensor, mask_VT: Tensor
) -> Tensor:
    """`model.similarity` of all captions and videos, a few captions at a time so that memory does not grow with M.

    Raises:
        ValueError: as `VideoTextModel.similarity`.
    """
    per_caption = tokens_MQE.shape[1] * frames_VTE.shape[0] * frames_VTE.shape[1]
    step = max(1, CHUNK_ELEMENTS // max(1, per_caption))
    parts = [
        model.similarity(tokens, mask, frames_VTE, mask_VT)
        for tokens, mask in zip(tokens_MQE.split(step), mask_MQ.split(step), strict=True)
    ]
    return torch.cat(parts)


def _row(protocol: Protocol, sim_MV: Tensor, videos_M: Tensor) -> RetrievalRow:
    ranks = ranks_of(protocol, sim_MV, videos_M).tolist()
    recalls = [sum(rank <= k for rank in ranks) / len(ranks) for k in RECALLS]
    return RetrievalRow(
        protocol,
        *recalls,
        median_rank=float(median(ranks)),
        mean_rank=sum(ranks) / len(ranks),
        ranks=tuple(ranks),
    )


def _check(sim_MV: Tensor, videos_of_captions: Sequence[int] | None) -> Tensor:
    if sim_MV.dim() != 2 or not sim_MV.numel():
        raise ValueError(f"similarities must be a matrix of captions by videos; got {tuple(sim_MV.shape)}")
    num_captions, num_videos = sim_MV.shape
    bad = (~torch.isfinite(sim_MV)).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"similarities must be finite; got NaN or infinity for captions {bad[:5]}")
    if videos_of_captions is None:
        if num_captions != num_videos:
            raise ValueError(
                f"{num_captions} captions and {num_videos} videos: say which video each caption belongs to "
                "(videos_of_captions)"
            )
        return torch.arange(num_captions)
    videos_M = torch.as_tensor(videos_of_captions, dtype=torch.int64)
    if videos_M.shape != (num_captions,):
        raise ValueError(f"videos_of_captions must have {num_captions} entries; got {tuple(videos_M.shape)}")
    if int(videos_M.min()) < 0 or int(videos_M.max()) >= num_videos:
        raise ValueError(
            f"videos_of_captions must lie in 0..{num_videos - 1}; got {int(videos_M.min())}..{int(videos_M.max())}"
        )
    return videos_M
