"""Choosing device and precision, and what one process means by sums and gathers."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
import torch

from side4video.errors import ConfigError
from side4video.training.runtime import resolve_precision, start


def test_precision_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", "cpu") == "fp32"
    assert resolve_precision("auto", "mps") == "fp32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    for supported, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, s=supported: s)
        assert resolve_precision("auto", "cuda") == expected


def test_one_process_on_the_cpu(small: ModuleType) -> None:
    environment = dict(os.environ)
    runtime = start(small.small_settings({"train.precision": "fp16"}).train)
    assert (runtime.rank, runtime.world_size, runtime.is_main, runtime.device.type) == (0, 1, True, "cpu")
    assert runtime.scaler is not None
    assert runtime.sum([1, True, 0.25]) == [1, True, 0.25]
    assert runtime.gather_json({"a": 1}) == [{"a": 1}]
    assert dict(os.environ) == environment


def test_what_this_machine_does_not_have(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"train.accelerator=cuda is not available on this machine; available: cpu"):
        start(small.small_settings({"train.accelerator": "cuda"}).train)
    with pytest.raises(ConfigError, match=r"train.devices: must be 1 or more, or auto; got 0"):
        start(small.small_settings({"train.devices": 0}).train)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"train.devices=3, but torchrun started 2 processes"):
        start(small.small_settings({"train.devices": 3}).train)


def test_the_frozen_part_is_not_sent_between_processes(small: ModuleType) -> None:
    runtime = start(small.small_settings().train)
    model = small.small_model()
    step = torch.nn.Sequential(model)
    optimizer = torch.optim.SGD([model.head.weight], lr=0.1)
    runtime.setup(step, optimizer, model.backbone)
    ignored = set(step._ddp_params_and_buffers_to_ignore)
    named = [*step.named_parameters(), *step.named_buffers()]
    assert ignored == {name for name, _ in named if ".backbone." in name}
    assert len(ignored) == len(model.backbone.state_dict())
