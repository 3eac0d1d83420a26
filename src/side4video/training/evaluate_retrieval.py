"""Ranks of every caption and video of a loader, exact under several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.batch import BrokenClip, CaptionBatch
from side4video.errors import DataError, TrainingError
from side4video.tasks.retrieval import VideoTextModel
from side4video.tasks.retrieval_metrics import RetrievalReport, retrieval_report, similarity_matrix
from side4video.training.evaluate import eval_mode, gather_broken, in_step
from side4video.training.runtime import Runtime

DSL_SCALE = {"wti": 100.0, "mean": 1.0}
"""WTI ranks by cosines; mean pooling has its scale in it already."""


@dataclass(frozen=True)
class RetrievalResult:
    """Metrics over the videos that could be read, in order of their records; `broken` lists the others, which, with
    their captions, are in none of the numbers.

    `loss` is the mean cross entropy of the captions over the videos, scaled as in training. `indices_V` are record
    numbers, `videos_M` is each caption's video among those V.
    """

    report: RetrievalReport
    loss: float
    sim_MV: Tensor
    indices_V: Tensor
    videos_M: Tensor
    broken: tuple[BrokenClip, ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers that `--json` prints: R@1 of both directions by name, and all rows."""
        return {
            "t2v_r1": self.report.t2v_r1,
            "v2t_r1": self.report.raw["video_to_caption_groups"].r1,
            **self.report.as_dict(),
            "broken": len(self.broken),
        }


@dataclass
class _Gallery:
    """What this process has embedded: lists of one tensor a batch."""

    frames: list[Tensor] = field(default_factory=list[Tensor])
    frame_masks: list[Tensor] = field(default_factory=list[Tensor])
    tokens: list[Tensor] = field(default_factory=list[Tensor])
    token_masks: list[Tensor] = field(default_factory=list[Tensor])
    records: list[Tensor] = field(default_factory=list[Tensor])
    owners: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, frames_BTE: Tensor, tokens_MQE: Tensor, batch: CaptionBatch) -> None:
        self.frames.append(frames_BTE.float().cpu())
        self.frame_masks.append(batch.mask_BT.to(torch.uint8))
        self.tokens.append(tokens_MQE.float().cpu())
        self.token_masks.append(batch.mask_MQ.to(torch.uint8))
        self.records.append(batch.indices_B)
        self.owners.append(batch.indices_B[batch.rows_M])


def evaluate_retrieval(
    model: VideoTextModel,
    loader: Iterable[CaptionBatch],
    *,
    runtime: Runtime | None = None,
    on_batch: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    embed: Callable[[Tensor], Tensor] | None = None,
) -> RetrievalResult:
    """Embed every video and caption of `loader` once, and rank all against all.

    With a runtime each process embeds its own part; every one of them gets the whole result. `on_batch` is told how
    many videos of this process a batch had. `embed` takes the place of `model.encode_video`, for comparisons. The model
    is in the mode it was in before when this returns.

    Raises:
        DataError: no video could be read.
        TrainingError: similarities that are NaN or infinite.
        EvaluationStopped: `should_stop` said so in one of the processes.
    """
    gallery = _Gallery()
    broken: dict[int, BrokenClip] = {}
    device = model.logit_scale.device
    with eval_mode(model), torch.no_grad():
        for batch in in_step(loader, runtime, should_stop, idle=model.take_part):
            broken.update((clip.index, clip) for clip in batch.broken)
            if len(batch):
                there = batch.to(device, non_blocking=True)
                with nullcontext() if runtime is None else runtime.autocast():
                    frames_BTE = (
                        model.encode_video(there.clip_BTCHW, there.stored) if embed is None else embed(there.clip_BTCHW)
                    )
                    tokens_MQE = model.encode_text(there.ids_MQ)
                gallery.add(frames_BTE, tokens_MQE, batch)
            if on_batch is not None:
                on_batch(len(batch))
        if runtime is not None and runtime.world_size > 1:
            broken = gather_broken(broken, runtime)
        parts = _merged(gallery, model.embed_dim, runtime)
        listed = tuple(broken[index] for index in sorted(broken))
        if parts is None:
            example = f"; for example {listed[0].path}: {listed[0].reason}" if listed else ""
            raise DataError(f"no video could be evaluated: {len(listed)} are broken{example}")
        frames_VTE, mask_VT, indices_V, tokens_MQE, mask_MQ, videos_M = parts
        moved = (value.to(device) for value in (tokens_MQE, mask_MQ.bool(), frames_VTE, mask_VT.bool()))
        sim_MV = similarity_matrix(model, *moved).float().cpu()
        scale = 1.0 if model.interaction == "mean" else float(model.logit_scale.exp())
    try:
        report = retrieval_report(sim_MV, videos_M.tolist(), dsl_scale=DSL_SCALE[model.interaction])
    except ValueError as error:
        raise TrainingError(f"evaluation stopped: {error}") from error
    loss = float(F.cross_entropy(sim_MV.double() * scale, videos_M))
    return RetrievalResult(report, loss, sim_MV, indices_V, videos_M, listed)


def _merged(gallery: _Gallery, embed_dim: int, runtime: Runtime | None) -> tuple[Tensor, ...] | None:
    """Frames, frame masks and records in order of the records; tokens, their masks and owners in order of owners.

    None when no process has a video.
    """
    columns = (
        gallery.frames,
        gallery.frame_masks,
        gallery.records,
        gallery.tokens,
        gallery.token_masks,
        gallery.owners,
    )
    several = runtime is not None and runtime.world_size > 1
    if several:
        assert runtime is not None
        # a process without a video has no shapes either: the others tell
        own = [list(gallery.frames[0].shape), list(gallery.tokens[0].shape)] if gallery.frames else None
        shapes = next((shapes for shapes in runtime.gather_json(own) if shapes is not None), None)
        if shapes is None:
            return None
        (_, num_frames, _), (_, num_tokens, _) = shapes
        empty = (
            torch.empty(0, num_frames, embed_dim),
            torch.empty(0, num_frames, dtype=torch.uint8),
            torch.empty(0, dtype=torch.int64),
            torch.empty(0, num_tokens, embed_dim),
            torch.empty(0, num_tokens, dtype=torch.uint8),
            torch.empty(0, dtype=torch.int64),
        )
        whole = [
            torch.cat(runtime.gather(torch.cat([none, *parts]))) for none, parts in zip(empty, columns, strict=True)
        ]
    elif gallery.frames:
        whole = [torch.cat(parts) for parts in columns]
    else:
        return None
    frames_VTE, mask_VT, indices_V, tokens_MQE, mask_MQ, owners_M = whole
    order_V, order_M = indices_V.argsort(stable=True), owners_M.argsort(stable=True)
    indices_V, owners_M = indices_V[order_V], owners_M[order_M]
    videos_M = torch.searchsorted(indices_V, owners_M)
    return frames_VTE[order_V], mask_VT[order_V], indices_V, tokens_MQE[order_M], mask_MQ[order_M], videos_M
