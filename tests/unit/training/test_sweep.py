"""Several side networks over one frozen pass: each ends as if it had been alone, whatever happens to the others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.config.schema import RunSettings
from side4video.errors import TrainingError
from side4video.side import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.training.files import read_tensors
from side4video.training.fit import fit
from side4video.training.runtime import start
from side4video.training.sweep import MemberResult, SweepMember, fit_together
from side4video.training.values import TrainingData

# one of each kind of difference: rate, schedule, width, taps, temporal mixing, memory, steps of two batches, averages
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "rate": ({"optim.lr": 1e-2, "optim.schedule": "constant"}, {}),
    "wide": ({"optim.ema": 0.8, "memory": "lean"}, {"width": 24, "num_heads": 3, "temporal": "attention"}),
    "short": ({"optim.epochs": 1, "optim.weight_decay": 0.0}, {"taps": [1], "temporal": "none", "shift": False}),
    "pairs": ({"optim.accumulate": 2, "optim.clip_grad_norm": 0.5}, {"norm": "layer"}),
}
SHARED = {"data.mixup": 0.5, "data.broken_tolerance": 0.2, "optim.epochs": 2}
TIMES = {"clips_per_second", "seconds", "epoch_seconds"}


class Trainings:
    """Makes the same models again and again, on one backbone that counts what it is asked."""

    def __init__(self, small: ModuleType) -> None:
        self.small = small
        self.runtime = start(small.small_settings().train)
        self.passes: list[tuple[int, ...]] = []
        self.loader: dict[str, Any] = {"broken": (3,)}

    def settings(self, name: str) -> RunSettings:
        return self.small.small_settings({"memory": "balanced", **SHARED, **VARIANTS[name][0]})

    def model(self, name: str, backbone: FrozenBackbone) -> VideoClassifier:
        # dropout draws from the global generator: each must have its own
        return VideoClassifier(
            backbone,
            self.small.NUM_CLASSES,
            side=SideSpec(**{"width": 16, "num_heads": 2, **VARIANTS[name][1]}),
            dropout=0.25,
            memory=self.settings(name).memory,
            generator=torch.Generator().manual_seed(2),
        )

    def backbone(self) -> FrozenBackbone:
        backbone = FrozenBackbone(self.small.SmallTrunk(), name="small")
        stream = backbone.stream

        def counted(clip_BTCHW: Tensor, taps: Any, **options: Any) -> Any:
            self.passes.append(tuple(sorted(taps)))
            return stream(clip_BTCHW, taps, **options)

        backbone.stream = counted
        return backbone

    def data(self) -> TrainingData:
        train = self.small.SmallLoader(15, 3, **self.loader)
        return self.small.small_data(train, self.small.SmallLoader(7, 2, shuffle=False))

    def alone(self, name: str, out: Path) -> None:
        settings = self.settings(name)
        fit(settings, self.model(name, self.backbone()), self.data(), out / name, runtime=self.runtime)

    def together(self, names: list[str], out: Path, **options: Any) -> list[MemberResult]:
        backbone = self.backbone()
        members = [SweepMember(n, self.settings(n), self.model(n, backbone), out / n) for n in names]
        before = torch.get_rng_state()
        try:
            return fit_together(members, self.data(), runtime=self.runtime, **options)
        finally:
            assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def trainings(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Trainings(small)


@pytest.fixture(scope="module")
def alone(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant trained by itself."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for name in VARIANTS:
            Trainings(small).alone(name, out)
    return out


def left_behind(out: Path) -> dict[str, Any]:
    """Weights, averages, moments, random state and history of a run, without clock readings."""
    (state,) = (out / "state").iterdir()
    files = [out / "side.safetensors", out / "last.safetensors", *sorted(state.glob("*.safetensors"))]
    found: dict[str, Any] = {path.name: path.read_bytes() for path in files}
    found["random"] = json.loads((state / "state.json").read_text())["random"]
    rows = json.loads((out / "metrics.json").read_text())["history"]
    found["history"] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    found["broken"] = (out / "broken.json").read_text()
    return found


def assert_as_alone(out: Path, alone: Path, names: list[str]) -> None:
    for name in names:
        ours, expected = left_behind(out / name), left_behind(alone / name)
        assert ours.keys() == expected.keys()
        assert [key for key in expected if ours[key] != expected[key]] == [], name


def test_each_ends_with_exactly_the_weights_it_would_have_had_alone(
    trainings: Trainings, alone: Path, tmp_path: Path
) -> None:
    results = trainings.together(list(VARIANTS), tmp_path)
    assert [result.error for result in results] == [None] * len(VARIANTS)
    assert_as_alone(tmp_path, alone, list(VARIANTS))
    # 2 epochs of 5 training and 4 validation batches, each through the backbone once, for all that any model taps
    assert trainings.passes == [(0, 1, 2)] * 18
    assert results[0].fit is not None
    assert results[0].fit.steps == 10
    # they are five trainings, not one
    weights = [read_tensors(tmp_path / name / "side.safetensors")["head.bias"] for name in VARIANTS]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])


def test_one_that_fails_leaves_the_others_as_they_were(
    trainings: Trainings, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    VARIANTS["bad"] = ({"optim.lr": 1e30, "optim.schedule": "constant", "optim.warmup_epochs": 0}, {})
    try:
        results = trainings.together(["plain", "bad", "pairs"], tmp_path)
        assert [result.error is None for result in results] == [True, False, True]
        assert "NaN or infinite" in str(results[1].error)
        assert results[1].fit is None
        assert "bad has failed, the others go on" in caplog.text
        assert_as_alone(tmp_path, alone, ["plain", "pairs"])
        assert json.loads((tmp_path / "bad" / "run.json").read_text())["status"] == "failed"
        with pytest.raises(TrainingError, match=r"every variant has failed; bad: .*NaN or infinite"):
            trainings.together(["bad"], tmp_path / "again")
    finally:
        del VARIANTS["bad"]


@pytest.mark.parametrize(
    ("at", "short"), [(3, "stopped"), (7, "finished")], ids=["inside a step of pairs", "after the end of short"]
)
def test_stopped_and_resumed_is_as_never_stopped(
    trainings: Trainings, alone: Path, tmp_path: Path, at: int, short: str
) -> None:
    def before(batch: int) -> None:
        if batch == at:
            os.kill(os.getpid(), signal.SIGTERM)

    trainings.loader["before"] = before
    names = ["plain", "short", "pairs"]
    with pytest.raises(SystemExit, match="143"):
        trainings.together(names, tmp_path)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in names]
    assert [record["status"] for record in records] == ["stopped", short, "stopped"]
    trainings.loader["before"] = None
    trainings.together(names, tmp_path, resume=True)
    assert_as_alone(tmp_path, alone, names)


def test_killed_while_some_have_saved_and_others_not(trainings: Trainings, alone: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def before(batch: int) -> None:
        if batch == 8:
            raise Killed

    # the first saves every second step, the second only at the end of an epoch
    VARIANTS["plain"] = ({"train.save_every_steps": 2}, {})
    try:
        trainings.loader["before"] = before
        with pytest.raises(Killed):
            trainings.together(["plain", "short"], tmp_path)
        trainings.loader["before"] = None
        trainings.passes.clear()
        trainings.together(["plain", "short", "rate"], tmp_path, resume=True)
        assert_as_alone(tmp_path, alone, ["short", "rate"])
        for name in ("side", "last"):
            file = f"{name}.safetensors"
            assert (tmp_path / "plain" / file).read_bytes() == (alone / "plain" / file).read_bytes()
    finally:
        VARIANTS["plain"] = ({}, {})


def test_members_must_share_backbone_and_slices(trainings: Trainings, tmp_path: Path) -> None:
    def members(change: Callable[[VideoClassifier], None]) -> list[SweepMember]:
        backbone = trainings.backbone()
        models = [trainings.model("plain", backbone) for _ in range(2)]
        change(models[1])
        return [
            SweepMember(str(number), trainings.settings("plain"), model, tmp_path / str(number))
            for number, model in enumerate(models)
        ]

    def other_backbone(model: VideoClassifier) -> None:
        model.video.backbone = trainings.backbone()

    def other_slices(model: VideoClassifier) -> None:
        model.video.frame_slice = 5

    for change, reason in ((other_backbone, "one backbone object"), (other_slices, "slices of the same size")):
        with pytest.raises(ValueError, match=reason):
            fit_together(members(change), trainings.data(), runtime=trainings.runtime)
    assert list(tmp_path.iterdir()) == []
