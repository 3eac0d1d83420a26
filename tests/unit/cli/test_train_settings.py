"""What the words of `side4video train` mean, before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from side4video.cli.main import main
from side4video.cli.train import resumed_settings, settings_from
from side4video.config import load
from side4video.config.load import dump_settings, load_settings
from side4video.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.csv").write_text("path,label\n")
    (tmp_path / "recipe.yaml").write_text("data: {train: clips, num_frames: 6}\noptim: {lr: 0.25}\n")
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "ssv2-b16.yaml").write_text("data: {num_frames: 12}\n")
    monkeypatch.setattr(load, "RECIPE_FOLDER", shipped)
    return tmp_path


def test_source_is_data_or_a_recipe_or_the_name_of_one(place: Path) -> None:
    assert settings_from("clips", None, {}).data.train == "clips"
    assert settings_from("train.csv", None, {}).data.train == "train.csv"
    from_recipe = settings_from("recipe.yaml", None, {"data.num_frames": "3"})
    assert (from_recipe.data.train, from_recipe.data.num_frames, from_recipe.optim.lr) == ("clips", 3, 0.25)
    shipped = settings_from("ssv2-b16", None, {"data.train": "train.csv"})
    assert (shipped.data.train, shipped.data.num_frames) == ("train.csv", 12)
    both = settings_from("train.csv", "ssv2-b16", {})
    assert (both.data.train, both.data.num_frames) == ("train.csv", 12)
    assert settings_from(None, None, {"data.train": "clips"}).data.train == "clips"


@pytest.mark.parametrize(
    ("source", "recipe", "overrides", "message"),
    [
        ("clip", None, {}, "no such folder, list file or recipe: 'clip'"),
        ("ssv2-b1", None, {}, "did you mean 'ssv2-b16'"),
        ("gone.yaml", None, {}, "no such recipe file: gone.yaml"),
        ("ssv2-b16", None, {}, "no data: name a folder"),
        (None, None, {}, "no data: name a folder"),
        ("recipe.yaml", "ssv2-b16", {}, "two recipes"),
        ("clips", None, {"data.train": "train.csv"}, "two data sets: SOURCE clips and data.train=train.csv"),
        ("clips", "nobody", {}, "unknown recipe 'nobody'"),
    ],
)
def test_what_source_cannot_be(
    place: Path, source: str | None, recipe: str | None, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_from(source, recipe, overrides)


def test_a_resumed_run_keeps_what_is_not_said_again(place: Path) -> None:
    run = place / "run"
    run.mkdir()
    stored = load_settings(
        None, {"data.train": str(place / "clips"), "backbone.name": "tiny-clip", "optim.lr": 0.25, "optim.epochs": 7}
    )
    (run / "config.yaml").write_text(dump_settings(stored))
    assert resumed_settings(run, None, None, {}) == stored
    # the same command again: another spelling of the path, and an `auto` that was resolved
    assert resumed_settings(run, "clips", None, {"backbone.name": "auto", "optim.lr": "0.25"}) == stored
    changed = resumed_settings(run, "clips", None, {"data.workers": "2", "optim.lr": "0.5"})
    assert changed.data.workers == 2
    assert changed.optim.lr == 0.5, "training refuses it, not the command line"
    assert changed.optim.epochs == 7


def test_lists_of_a_recipe_are_looked_up_in_the_root_when_started_and_when_resumed(place: Path) -> None:
    data = place / "disk"
    data.mkdir()
    (data / "train.txt").write_text("a 9 0\n")
    (place / "shipped" / "ssv2-b16.yaml").write_text("data: {train: train.txt}\n")
    settings = settings_from("ssv2-b16", None, {"data.root": "disk"})
    assert settings.data.train == str(data / "train.txt")
    run = place / "run"
    run.mkdir()
    # a run stores full paths
    stored = settings.model_copy(update={"data": settings.data.model_copy(update={"root": str(data)})})
    (run / "config.yaml").write_text(dump_settings(stored))
    assert resumed_settings(run, "ssv2-b16", None, {"data.root": "disk"}) == stored


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips"], "--out is missing"),
        (["clips", "--out", "train.csv"], "is a file; a run needs a folder"),
        (["clips", "--out", "used"], "used is not empty, and nothing is overwritten"),
        (["clips", "--out", "used", "--resume"], "used holds files but no run"),
        (["clips", "--out", "started"], "holds a run already; go on with it: --resume"),
        (["--out", "new", "--resume"], "there is no run in new"),
        (["clips", "--out", "new", "--val", "gone"], "data.val: no such file or folder: gone"),
        (["clips", "--out", "new", "--val", "gone", "data.root=used"], "gone, neither here nor in data.root=used"),
        (["--out", "new", "data.train=gone.txt"], "gone.txt; data.root=FOLDER says where lists are"),
        (["clips", "--out", "new", "--weights", "gone.pt"], "backbone.weights: no such file: gone.pt"),
        (["clips", "--out", "new", "--backbone", "tim:vit"], "backbone.name: .*'tim:vit'"),
        (["clips", "more", "--out", "new"], "unexpected argument 'more'"),
    ],
)
def test_wrong_words_end_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (place / "used").mkdir()
    (place / "used" / "precious.txt").write_text("keep me")
    (place / "started").mkdir()
    (place / "started" / "config.yaml").write_text("")
    assert main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("side4video: error: ")
    assert re.search(message, err), err
    assert not (place / "new").exists()
    assert (place / "used" / "precious.txt").read_text() == "keep me"
