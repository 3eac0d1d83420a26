"""What retrieval brings to the training loop: its rate, its clamp, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from side4video.backbones import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.config.load import load_settings
from side4video.errors import ConfigError
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import MAX_LOGIT_SCALE, VideoTextModel
from side4video.training.retrieval_optim import retrieval_rate
from side4video.training.retrieval_task import RetrievalTask
from side4video.training.runtime import Runtime


def make_task(*, world_size: int = 1, train_text: bool = True, **settings: Any) -> RetrievalTask:
    overrides = {"task": "retrieval", **{name.replace("__", "."): value for name, value in settings.items()}}
    backbone = create_backbone("tiny-clip", pretrained=False, precision="fp32", device="cpu")
    text = create_text_tower("tiny-clip", pretrained=False)
    model = VideoTextModel(backbone, text, side=SideSpec(width=16, taps=(1,)), train_text=train_text)
    runtime = SimpleNamespace(device=torch.device("cpu"), world_size=world_size, setup_optimizer=lambda own: own)
    return RetrievalTask(load_settings(None, overrides), model, cast("Runtime", runtime), batches_per_epoch=7)


def test_the_rate_counts_steps_of_several_batches() -> None:
    task = make_task(optim__epochs=3, optim__accumulate=2, retrieval__warmup=0.25, optim__lr=0.5)
    # seven batches are four steps, the last one of a single batch
    expected = [retrieval_rate(step, 12, lr=0.5, warmup=0.25) for step in range(12)]
    found = [task.rate(epoch, batch) for epoch in range(3) for batch in (1, 3, 5, 6)]
    assert found == expected


def test_the_optimiser_is_the_released_one_with_the_settings_values() -> None:
    task = make_task(optim__weight_decay=0.3, retrieval__pretrained_lr_ratio=0.01)
    assert task.optimizer.max_norm == 1.0
    assert {group["betas"] for group in task.optimizer.param_groups} == {(0.9, 0.98)}
    assert {(group.lr_scale, group.weight_decay) for group in task.groups} == {
        (0.01, 0.3), (0.01, 0.0), (1.0, 0.3), (1.0, 0.0),
    }  # fmt: skip


def test_the_scale_is_clamped_after_a_step() -> None:
    task = make_task()
    task.model.logit_scale.data.fill_(9.0)
    task.after_step()
    assert float(task.model.logit_scale.detach()) == pytest.approx(MAX_LOGIT_SCALE)


def test_a_frozen_text_tower_is_named_and_a_trained_one_is_not() -> None:
    assert make_task().text is None
    named = make_task(train_text=False).text
    assert named is not None
    assert named["name"] == "tiny-clip"


def test_chunks_do_not_go_with_batch_norm_over_processes() -> None:
    wrong = {"retrieval__chunk_size": 4, "train__sync_bn": True}
    make_task(**wrong)
    with pytest.raises(ConfigError, match=r"train.sync_bn does not go with retrieval.chunk_size"):
        make_task(world_size=2, **wrong)
