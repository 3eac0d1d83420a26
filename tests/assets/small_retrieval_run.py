"""A retrieval training small enough for tests: `small_run` with a text-video model and drawn pairs.

    python small_retrieval_run.py --jobs JOBS.json

`"grads": PREFIX` writes what the optimiser is about to use, as PREFIX.RANK.STEP; `"batch"` is that of all processes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_run
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import nn

from side4video.backbones import create_backbone
from side4video.backbones.text import text_tower_of
from side4video.batch import CaptionBatch
from side4video.config.load import load_settings
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.fit import fit
from side4video.training.retrieval_task import RetrievalTask
from side4video.training.runtime import start
from side4video.training.values import FitResult, TrainingData

NUM_FRAMES, SIZE, PATCH, EMBED, WORDS, VOCAB = 3, 16, 8, 12, 6, 30
SETTINGS = {
    "task": "retrieval",
    "optim.epochs": 1,
    "optim.lr": 1e-3,
    "data.num_frames": NUM_FRAMES,
    "train.accelerator": "cpu",
    "train.devices": "auto",
    "train.loggers": ["csv"],
    "retrieval.warmup": 0.0,
}


def small_model(norm: str, *, shard: int = 1) -> VideoTextModel:
    """A CLIP of two blocks, spread over `shard` processes; `side_proj` is not zero, so that every weight has a gradient
    from the first step."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(image_size=SIZE, patch_size=PATCH, width=32, layers=2, head_width=16)
    clip = CLIP(EMBED, vision, CLIPTextCfg(context_length=WORDS, vocab_size=VOCAB, width=24, heads=2, layers=1))
    spec = SideSpec(width=8, taps=(0, 1), norm=norm)  # type: ignore[arg-type]
    backbone = create_backbone(clip, precision="fp32", device="cpu", shard=shard)
    model = VideoTextModel(backbone, text_tower_of(clip, name="small"), side=spec)
    nn.init.normal_(model.side_proj, std=0.3)
    return model


@dataclass
class SmallPairs:
    """Two batches of pairs, of which each process has its part."""

    batch_size: int
    rank: int
    world_size: int
    first: int = 0

    def __len__(self) -> int:
        return 2

    def seek(self, epoch: int, batch: int) -> None:
        self.first = batch

    def __iter__(self) -> Iterator[CaptionBatch]:
        share = self.batch_size // self.world_size
        for batch in range(self.first, len(self)):
            generator = torch.Generator().manual_seed(40 + batch)
            size = self.batch_size
            clip_BTCHW = torch.randn(size, NUM_FRAMES, 3, SIZE, SIZE, generator=generator)
            ids_MQ = torch.randint(1, VOCAB - 1, (size, WORDS), generator=generator)
            lengths_M1 = torch.randint(2, WORDS + 1, (size, 1), generator=generator)
            own = slice(self.rank * share, (self.rank + 1) * share)
            yield CaptionBatch(
                clip_BTCHW=clip_BTCHW[own],
                mask_BT=torch.ones(share, NUM_FRAMES, dtype=torch.bool),
                ids_MQ=ids_MQ[own],
                mask_MQ=(torch.arange(WORDS)[None] < lengths_M1)[own],
                rows_M=torch.arange(share),
                indices_B=torch.arange(size)[own],
            )


def main(out: str, options: dict[str, Any]) -> FitResult:
    """Train as the options say."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None
    settings = load_settings(None, {**SETTINGS, **options.get("settings", {})})
    runtime = start(settings.train)
    average, steps = RetrievalTask.before_step, iter(range(100))

    def recorded(task: RetrievalTask) -> None:
        average(task)
        grads = {name: p.grad.clone() for name, p in task.model.named_trained_parameters() if p.grad is not None}
        save_file(grads, f"{options['grads']}.{runtime.rank}.{next(steps)}")

    RetrievalTask.before_step = recorded
    pairs = SmallPairs(options["batch"], runtime.rank, runtime.world_size)
    data = TrainingData(pairs, None, pairs.seek, len(pairs), 2 * options["batch"], "small")
    model = small_model(options.get("norm", "batch"), shard=runtime.world_size if options.get("shard") else 1)
    return fit(settings, model, data, out, runtime=runtime)


if __name__ == "__main__":
    small_run.main = main
    jobs = json.loads(Path(sys.argv[2]).read_text())
    print(json.dumps([small_run.forked(out, options) for out, options in jobs]))
