"""Settings to objects: what is built, what a run stores, and what loading a run refuses."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from side4video.backbones.create import create_backbone
from side4video.build import (
    build_backbone,
    build_manifests,
    build_model,
    build_spec,
    load_run,
    resolve_settings,
    train_run,
    train_transform,
)
from side4video.config.groups import DataSettings, SideSettings
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.transforms import PixelFormat
from side4video.errors import CheckpointError, ConfigError, DataError
from side4video.training.values import FitResult

PIXELS = PixelFormat((64, 64), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def write_clip(path: Path, label: int, number: int) -> None:
    """A short clip whose brightness rises or falls."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([label, number])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 72, "yuv420p"
        for t in range(9):
            level = 40 + 15 * (t if label else 9 - t)
            frame_HWC = generator.integers(level, level + 30, (72, 80, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two class folders with six clips each, one of them broken."""
    folder = tmp_path_factory.mktemp("clips")
    for label, name in enumerate(("falling", "rising")):
        for number in range(6):
            write_clip(folder / name / f"{number}.mp4", label, number)
    (folder / "rising" / "broken.mp4").write_bytes(b"no video at all")
    return folder


def settings_for(clips: Path, **overrides: Any) -> RunSettings:
    return load_settings(
        None,
        {
            "backbone.name": "tiny-clip",
            "backbone.pretrained": False,
            "backbone.precision": "fp32",
            "side.width": 16,
            "side.num_heads": 2,
            "side.taps": "top:2",
            "data.train": str(clips),
            "data.num_frames": 3,
            "data.batch_size": 4,
            "data.workers": 0,
            "data.broken_tolerance": 0.2,
            "optim.epochs": 1,
            "optim.warmup_epochs": 0,
            "train.accelerator": "cpu",
            "train.loggers": ["csv"],
            **{key.replace("__", "."): value for key, value in overrides.items()},
        },
    )


@pytest.fixture(scope="module")
def finished(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    """A run of one epoch."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    return out, train_run(settings_for(clips), out)


def test_a_run_is_loaded_as_it_was_trained(clips: Path, finished: tuple[Path, FitResult]) -> None:
    out, result = finished
    assert result.is_main
    assert result.top1 is not None
    model = load_run(out)
    assert not model.training
    assert model.class_names == ("falling", "rising")
    again = load_run(out)
    clip_BTCHW = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(clip_BTCHW), again(clip_BTCHW))
    stored = load_settings(out / "config.yaml")
    assert stored.data.train == str(clips.resolve())
    assert stored.side.taps == [4, 5]
    assert stored.side.dialect == "clip"
    broken = json.loads((out / "broken.json").read_text())
    listed = [Path(entry["path"]).name for entry in (*broken["train"], *broken["val"])]
    assert listed == ["broken.mp4"]


def test_a_shared_backbone_is_used_and_another_one_is_refused(finished: tuple[Path, FitResult]) -> None:
    out, _ = finished
    own = load_run(out).backbone
    assert load_run(out, backbone=own).backbone is own
    with torch.random.fork_rng():
        torch.manual_seed(77)
        other = create_backbone("tiny-clip", pretrained=False, precision="fp32")
    hashes = own.content_hash()[:12], other.content_hash()[:12]
    message = rf"trained on the backbone 'tiny-clip' \(content {hashes[0]}\); got 'tiny-clip' \(content {hashes[1]}\)"
    with pytest.raises(CheckpointError, match=message):
        load_run(out, backbone=other)


@pytest.mark.parametrize("name", ["side.safetensors", "config.yaml", "classes.json", "backbone.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_missing_and_damaged_files_are_named(
    finished: tuple[Path, FitResult], tmp_path: Path, name: str, damage: str
) -> None:
    out, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    if damage == "missing":
        (copy / name).unlink()
    else:
        content = (copy / name).read_bytes()
        # half a line of YAML can be whole YAML
        (copy / name).write_bytes(b"side: [" if name == "config.yaml" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name):
        load_run(copy)


def test_weights_of_another_model_are_refused(finished: tuple[Path, FitResult], tmp_path: Path) -> None:
    out, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "classes.json").write_text('["a", "b", "c"]')
    with pytest.raises(CheckpointError, match=r"copy: the weights do not fit this model: head.weight is \(3, 16\)"):
        load_run(copy)
    with pytest.raises(CheckpointError, match=r"not a run folder: it has no config.yaml"):
        load_run(tmp_path / "nowhere")


def test_training_again_or_resuming_a_finished_run(clips: Path, finished: tuple[Path, FitResult]) -> None:
    out, first = finished
    with pytest.raises(ConfigError, match=r"already holds a run"):
        train_run(settings_for(clips), out)
    again = train_run(settings_for(clips), out, resume=True)
    assert (again.steps, again.history) == (first.steps, first.history)


def test_random_weights_come_from_the_seed(clips: Path) -> None:
    torch.manual_seed(1)
    first = build_model(settings_for(clips), ["a", "b"])
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build_model(settings_for(clips), ["a", "b"])
    other = build_model(settings_for(clips, train__seed=9), ["a", "b"])
    assert first.backbone.content_hash() == second.backbone.content_hash() != other.backbone.content_hash()
    assert all(torch.equal(value, second.trainable_state()[name]) for name, value in first.trainable_state().items())
    assert not torch.equal(first.head.weight, other.head.weight)
    build_backbone(settings_for(clips))
    torch.set_rng_state(state)


def test_dialects_fill_in_what_is_not_set(clips: Path) -> None:
    backbone = build_backbone(settings_for(clips))
    assert not backbone.post_norm
    auto, eva = build_spec(SideSettings(), backbone), build_spec(SideSettings(dialect="eva", shift=False), backbone)
    assert (auto.norm_order, auto.projection_norm, auto.taps, auto.final_norm) == ("pre", "input", "all", True)
    assert (eva.norm_order, eva.projection_norm, eva.taps, eva.final_norm) == ("post", "output", "every_second", False)
    assert not eva.shift
    mixed = build_spec(SideSettings(dialect="eva", norm_order="pre", taps=[0, 3], init="identity"), backbone)
    assert (mixed.norm_order, mixed.projection_norm, mixed.taps, mixed.init) == ("pre", "output", [0, 3], "identity")
    resolved = resolve_settings(settings_for(clips, side__dialect="eva", side__taps=None), backbone)
    assert resolved.side.taps == [1, 3, 5]
    assert resolve_settings(resolved, backbone) == resolved
    assert build_spec(resolved.side, backbone).norm_order == "post"


def test_validation_is_a_share_or_its_own_set(clips: Path) -> None:
    train, val = build_manifests(settings_for(clips, data__val_fraction=0.34))
    assert (len(train), len(val)) == (9, 4)
    _, own = build_manifests(settings_for(clips, data__val=str(clips)))
    assert len(own) == 13
    with pytest.raises(ConfigError, match=r"data.train is not set"):
        build_manifests(RunSettings())


def test_a_class_that_training_lacks_is_refused(clips: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "standing" / "0.mp4", 1, 0)
    with pytest.raises(DataError, match=r"standing"):
        train_run(settings_for(clips, data__val=str(tmp_path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mirrors_and_left_right_classes(caplog: pytest.LogCaptureFixture) -> None:
    names = ["moving left", "moving right", "jumping"]
    with caplog.at_level(logging.WARNING):
        train_transform(DataSettings(flip="on"), PIXELS, names)
    assert "a mirror turns 'moving left' into 'moving right'" in caplog.text
    caplog.clear()
    swapped = train_transform(DataSettings(flip="swap", flip_pairs=[("moving left", "moving right")]), PIXELS, names)
    assert swapped.flip_labels == {0: 1, 1: 0}
    assert caplog.text == ""
    with pytest.raises(ConfigError, match=r"data.flip=swap needs data.flip_pairs"):
        train_transform(DataSettings(flip="swap"), PIXELS, names)
