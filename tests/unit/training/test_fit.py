"""What a training changes and leaves behind, and how it refuses and stops."""

from __future__ import annotations

import io
import json
import random
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from side4video.backbones.freezing import content_hash
from side4video.errors import CheckpointError, ConfigError, TrainingError
from side4video.training import recognition_task
from side4video.training.checkpoint import RunFolder
from side4video.training.ema import MovingAverage
from side4video.training.files import read_tensors
from side4video.training.fit import fit
from side4video.training.progress import BarProgress, LineProgress
from side4video.training.values import FitResult


def run(small: ModuleType, out: Path, overrides: dict[str, Any] | None = None, **options: Any) -> FitResult:
    """A small run: 12 videos in 3 batches, 9 validation videos."""
    train = small.SmallLoader(12, 4, **options.pop("loader", {}))
    val = small.SmallLoader(9, 2, shuffle=False) if options.pop("validate", True) else None
    model = options.pop("model", None) or small.small_model()
    data = small.small_data(train, val, options.pop("fingerprint", "small"))
    return fit(small.small_settings({"optim.epochs": 2, **(overrides or {})}), model, data, out, **options)


def test_training_changes_side_and_head_and_nothing_else(small: ModuleType, tmp_path: Path) -> None:
    model = small.small_model()
    frozen = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    addresses = {name: value.data_ptr() for name, value in model.backbone.state_dict().items()}
    trained = {name: value.clone() for name, value in model.trainable_state().items()}
    before = content_hash(model.backbone.trunk)
    modes: set[bool] = set()
    model.backbone.trunk.norm.register_forward_hook(lambda module, *_: modes.add(module.training))
    result = run(small, tmp_path, {"optim.epochs": 2}, model=model)
    after = model.backbone.state_dict()
    assert all(torch.equal(after[name], frozen[name]) for name in frozen)
    assert {name: value.data_ptr() for name, value in after.items()} == addresses
    assert content_hash(model.backbone.trunk) == before
    assert modes == {False}
    assert not any(module.training for module in model.backbone.modules())
    assert all(p.grad is None for p in model.backbone.parameters())
    # all that trains has moved, buffers of the side network's norms too
    assert [name for name, value in model.trainable_state().items() if torch.equal(value, trained[name])] == []
    assert result.steps == 6


def test_the_folder_holds_what_a_reader_needs(small: ModuleType, tmp_path: Path) -> None:
    model = small.small_model()
    result = run(small, tmp_path, {"train.loggers": ["csv", "tensorboard"]}, model=model, loader={"broken": ()})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "side.safetensors", "last.safetensors", "config.yaml", "classes.json", "backbone.json", "preprocessing.json",
        "metrics.json", "broken.json", "run.json", "logs", "state",
    }  # fmt: skip
    folder = RunFolder(tmp_path)
    assert folder.settings() == small.small_settings({"optim.epochs": 2, "train.loggers": ["csv", "tensorboard"]})
    assert folder.class_names() == ["class 0", "class 1", "class 2"]
    saved, held = folder.weights(), model.trainable_state()
    assert saved.keys() == held.keys()
    assert all(torch.equal(saved[name], held[name]) for name in saved)
    run_record = json.loads((tmp_path / "run.json").read_text())
    assert run_record["status"] == "finished"
    assert (run_record["steps"], run_record["seed"], run_record["processes"]) == (6, 5, 1)
    assert run_record["versions"]["torch"] == torch.__version__
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["epoch"] for row in metrics["history"]] == [1, 2]
    assert metrics["best"] == {"epoch": result.best_epoch, "val_top1": result.top1}
    assert list((tmp_path / "logs" / "tensorboard").glob("events*"))


def test_the_global_random_state_is_left_as_it_was(small: ModuleType, tmp_path: Path) -> None:
    model = small.small_model()
    torch.manual_seed(3)
    np.random.seed(4)
    random.seed(5)
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    torch.manual_seed(3)
    np.random.seed(4)
    random.seed(5)
    run(small, tmp_path, {"optim.epochs": 1}, model=model)
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == expected


def test_accumulating_two_batches_is_one_batch_of_twice_the_size(small: ModuleType, tmp_path: Path) -> None:
    # a layer norm does not tie the clips together, so the gradient is the same; two steps, the last one shorter
    history = {}
    for name, batch, accumulate in (("whole", 4, 1), ("parts", 2, 2)):
        settings = small.small_settings(
            {"optim.epochs": 2, "optim.accumulate": accumulate, "optim.clip_grad_norm": 0.1, "optim.warmup_epochs": 0}
        )
        loader = small.SmallLoader(12, batch)
        model = small.small_model(norm="layer", dropout=0.0)
        history[name] = fit(settings, model, small.small_data(loader, None), tmp_path / name).history
    for whole, parts in zip(history["whole"], history["parts"], strict=True):
        assert whole["step"] == parts["step"]
        assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)


def test_a_last_step_of_fewer_batches_weighs_them_fully(small: ModuleType, tmp_path: Path) -> None:
    # three batches, two a step: the second step is one batch, as if it stood alone
    seen: list[float] = []
    model = small.small_model(norm="layer", dropout=0.0)
    model.head.register_full_backward_hook(lambda _m, _i, grads: seen.append(float(grads[0].abs().sum())))
    run(small, tmp_path, {"optim.epochs": 1, "optim.accumulate": 2, "optim.lr": 1e-9}, model=model)
    assert len(seen) == 3
    assert seen[2] / seen[0] == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precisions(small: ModuleType, tmp_path: Path, precision: str) -> None:
    types: set[torch.dtype] = set()
    model = small.small_model()
    model.side.blocks[0].attention.out.register_forward_hook(lambda _m, _i, out: types.add(out.dtype))
    result = run(small, tmp_path, {"train.precision": precision, "memory": "fast"}, model=model, validate=False)
    assert types == {{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert result.history[-1]["train_loss"] < 1.5


def test_nan_loss_stops_with_the_step_and_the_last_good_state(small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"NaN or infinite at step 5 \(epoch 2\).*step-000000004-.*is kept|kept in"):
        run(small, tmp_path, {"train.save_every_steps": 4}, loader={"nan_at": 4})
    saved = RunFolder(tmp_path).load_state()
    assert saved is not None
    assert saved.path.name.startswith("step-000000004")
    assert all(bool(torch.isfinite(value).all()) for value in saved.tensors["weights"].values())
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def test_weights_that_are_not_finite_are_never_saved(small: ModuleType, tmp_path: Path) -> None:
    model = small.small_model()

    def poison(batch: int) -> None:
        if batch == 4:
            # as a gradient that overflows behind a finite loss would
            model.head.bias.register_hook(lambda grad: grad * float("inf"))

    with pytest.raises(TrainingError, match=r"NaN or infinite (by|at) step [56]"):
        run(small, tmp_path, {"train.save_every_steps": 1}, model=model, loader={"before": poison})
    saved = RunFolder(tmp_path).load_state()
    assert saved is not None
    assert saved.path.name.startswith("step-000000004")


def test_broken_videos_are_skipped_counted_once_and_listed(small: ModuleType, tmp_path: Path) -> None:
    # one batch of the epoch is all broken at times; nothing hangs, nothing is replaced
    settings = {"data.broken_tolerance": 0.5, "optim.epochs": 3}
    result = run(small, tmp_path, settings, loader={"broken": (2, 3, 7, 8, 10)})
    assert [clip.index for clip in result.broken] == [2, 3, 7, 8, 10]
    listed = json.loads((tmp_path / "broken.json").read_text())
    assert [entry["path"] for entry in listed["train"]] == [f"video{k}.mp4" for k in (2, 3, 7, 8, 10)]
    assert listed["val"] == []


def test_too_many_broken_videos_stop_the_run(small: ModuleType, tmp_path: Path) -> None:
    message = r"2 of 12 training videos are broken, more than the 10% .*video\d+.mp4: no video stream"
    with pytest.raises(TrainingError, match=message):
        run(small, tmp_path, {"data.broken_tolerance": 0.1}, loader={"broken": (2, 3)})
    assert len(json.loads((tmp_path / "broken.json").read_text())["train"]) == 2
    # exactly the share that is allowed goes on
    run(small, tmp_path / "allowed", {"data.broken_tolerance": 0.25}, loader={"broken": (2, 3, 4)})


def test_early_stopping_and_the_best_weights(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tops = iter([0.2, 0.6, 0.4, 0.6, 0.5, 0.9])
    real, weights = recognition_task.evaluate, []

    def scripted(model: Any, *arguments: Any, **keywords: Any) -> Any:
        result = real(model, *arguments, **keywords)
        weights.append({name: value.clone() for name, value in model.trainable_state().items()})
        object.__setattr__(result.report, "top1", next(tops))
        object.__setattr__(result, "loss", 1.0)
        return result

    monkeypatch.setattr(recognition_task, "evaluate", scripted)
    model = small.small_model()
    result = run(small, tmp_path, {"optim.epochs": 9, "train.early_stop": 3}, model=model)
    assert (result.epochs, result.top1, result.best_epoch) == (5, 0.6, 2)
    # the model, and the file, hold the second epoch's weights; last.safetensors the fifth's
    assert all(torch.equal(value, weights[1][name]) for name, value in model.trainable_state().items())

    assert all(
        torch.equal(value, weights[4][name]) for name, value in read_tensors(tmp_path / "last.safetensors").items()
    )


def test_with_ema_the_average_is_validated_and_saved(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[MovingAverage] = []
    real = MovingAverage.__init__

    def noted(self: MovingAverage, *arguments: Any) -> None:
        real(self, *arguments)
        made.append(self)

    monkeypatch.setattr(MovingAverage, "__init__", noted)
    run(small, tmp_path, {"optim.ema": 0.9, "optim.epochs": 1})
    saved, state = RunFolder(tmp_path).weights(), RunFolder(tmp_path).load_state()
    assert state is not None
    assert all(torch.equal(saved[name], made[0].averages[name]) for name in saved)
    assert not torch.equal(saved["head.weight"], state.tensors["weights"]["head.weight"])


def test_evaluate_every_leaves_epochs_out_but_not_the_last(small: ModuleType, tmp_path: Path) -> None:
    result = run(small, tmp_path, {"optim.epochs": 5, "train.evaluate_every": 2})
    assert [row["epoch"] for row in result.history if row["val_top1"] is not None] == [2, 4, 5]


def test_a_second_run_in_the_same_folder_is_refused(small: ModuleType, tmp_path: Path) -> None:
    run(small, tmp_path, {"optim.epochs": 1})
    before = (tmp_path / "side.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"already holds a run: resume it, or choose another folder"):
        run(small, tmp_path, {"optim.epochs": 1})
    assert (tmp_path / "side.safetensors").read_bytes() == before


def test_what_cannot_be_resumed_says_why(small: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing to resume: .* holds no run"):
        run(small, tmp_path, resume=True)
    run(small, tmp_path, {"optim.epochs": 1})
    wrong = r"cannot resume with other settings: optim.epochs=2 \(the run has 1\); optim.lr=0.5 .*Only these may change"
    with pytest.raises(ConfigError, match=wrong):
        run(small, tmp_path, {"optim.epochs": 2, "optim.lr": 0.5}, resume=True)
    with pytest.raises(CheckpointError, match=r"trained on the backbone 'small' \(content \w{12}\); got 'small'"):
        run(small, tmp_path, {"optim.epochs": 1}, resume=True, model=small.small_model(backbone_seed=8))
    with pytest.raises(CheckpointError, match=r"training data has changed"):
        run(small, tmp_path, {"optim.epochs": 1}, resume=True, fingerprint="other")
    (state,) = (tmp_path / "state").iterdir()
    values = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**values, "processes": 4, "clips": 16}))
    with pytest.raises(
        ConfigError, match=r"16 clips a step, over 4 processes; got data.batch_size=4 on 1, which are 4"
    ):
        run(small, tmp_path, {"optim.epochs": 1}, resume=True)
    (state / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors: damaged"):
        run(small, tmp_path, {"optim.epochs": 1}, resume=True)


def test_a_finished_run_that_is_resumed_is_left_alone(small: ModuleType, tmp_path: Path) -> None:
    first = run(small, tmp_path)
    again = run(small, tmp_path, {"train.early_stop": 7}, resume=True, model=small.small_model(seed=99))
    assert (again.steps, again.top1, again.history) == (first.steps, first.top1, first.history)


def test_signals_are_noted_and_handlers_come_back(small: ModuleType, tmp_path: Path) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def interrupt(batch: int) -> None:
        if batch == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"stopped after 1 steps, in epoch 1 of 2.*--resume goes on from there"):
        run(small, tmp_path, loader={"before": interrupt})
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    result = run(small, tmp_path, resume=True)
    assert result.steps == 6


def test_workers_that_end_with_the_signal_do_not_lose_the_run(small: ModuleType, tmp_path: Path) -> None:
    def lose_workers(batch: int) -> None:
        if batch == 4:
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("DataLoader worker exited unexpectedly")

    child_handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(SystemExit, match="143"):
        run(small, tmp_path, loader={"before": lose_workers})
    assert signal.getsignal(signal.SIGCHLD) == child_handler
    saved = RunFolder(tmp_path).load_state()
    assert saved is not None
    assert saved.path.name.startswith("step-000000004")
    resumed, whole = run(small, tmp_path, resume=True), run(small, tmp_path / "whole")
    assert resumed.history[-1]["train_loss"] == whole.history[-1]["train_loss"]
    # inside an accumulated step there is nothing to save, and without a signal it is an error like any other
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        run(small, tmp_path / "inside", {"optim.accumulate": 2}, loader={"before": lose_workers})


def test_an_interrupted_validation_is_repeated(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(small, tmp_path / "whole", {"optim.ema": 0.7})
    passes: list[int] = []

    def interrupt(batch: int) -> None:
        passes.append(batch)
        if len(passes) == 2:
            signal.raise_signal(signal.SIGINT)

    model, settings = small.small_model(), small.small_settings({"optim.epochs": 2, "optim.ema": 0.7})
    val = small.SmallLoader(9, 2, shuffle=False, before=interrupt)
    data = small.small_data(small.SmallLoader(12, 4), val)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 3 steps"):
        fit(settings, model, data, tmp_path / "stopped")
    resumed = fit(settings, small.small_model(), data, tmp_path / "stopped", resume=True)
    clocks = {"clips_per_second"}
    for row, twin in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in row.items() if k not in clocks} == {k: v for k, v in twin.items() if k not in clocks}
    for name in ("side.safetensors", "last.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.parametrize("view", [LineProgress, BarProgress])
def test_progress_tells_what_trains_and_every_epoch(small: ModuleType, tmp_path: Path, view: Any) -> None:
    stream = io.StringIO()
    run(small, tmp_path, progress=view(stream))
    said = stream.getvalue()
    assert "backbone small" in said
    assert "trained in all" in said
    assert "epoch 1/2  loss" in said
    assert "validation top-1" in said


def test_compiled_side_network_trains_to_the_same_numbers(small: ModuleType, tmp_path: Path) -> None:
    with torch.compiler.set_stance("force_eager"):
        compiled = run(small, tmp_path / "compiled", {"train.compile": True, "optim.epochs": 1})
    plain = run(small, tmp_path / "plain", {"optim.epochs": 1})
    assert compiled.history[0]["train_loss"] == plain.history[0]["train_loss"]
    assert RunFolder(tmp_path / "compiled").weights().keys() == RunFolder(tmp_path / "plain").weights().keys()
