"""Settings from recipes and overrides: order, types, and messages that name setting, value and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from side4video.config import load
from side4video.config.describe import known_settings, unknown_setting
from side4video.config.load import (
    dump_settings,
    find_recipe,
    is_override,
    load_settings,
    parse_overrides,
    read_recipe,
    shipped_recipes,
)
from side4video.config.schema import RunSettings
from side4video.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_then_recipe_then_overrides(tmp_path: Path) -> None:
    recipe = write(tmp_path, "data: {batch_size: 4, num_frames: 6}\noptim: {lr: 0.5}\n")
    settings = load_settings(recipe, ["data.num_frames=12", "side.width=64"])
    assert settings.data.batch_size == 4
    assert settings.data.num_frames == 12
    assert settings.side.width == 64
    assert settings.optim.lr == 0.5
    assert settings.optim.epochs == RunSettings().optim.epochs


def test_the_last_of_two_overrides_wins() -> None:
    assert load_settings(None, ["data.batch_size=3", "data.batch_size=5"]).data.batch_size == 5


def test_the_given_mapping_is_not_changed() -> None:
    given: dict[str, Any] = {"data": {"batch_size": 4}}
    load_settings(given, ["data.batch_size=7"])
    assert given == {"data": {"batch_size": 4}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.flip=off", "off"),
        ("data.train=123", "123"),
        ("data.crop_area=0.1,0.5", (0.1, 0.5)),
        ("data.crop_area=[0.1, 0.5]", (0.1, 0.5)),
        ("data.flip_pairs=[[a, b], [c, d]]", [("a", "b"), ("c", "d")]),
        ("data.flip_pairs=something", "something"),
        ("data.workers=3", 3),
        ("data.workers=auto", "auto"),
        ("side.taps=[1, 5]", [1, 5]),
        ("side.taps=top:4", "top:4"),
        ("side.num_heads=null", None),
        ("side.shift=false", False),
        ("optim.lr=1e-4", 1e-4),
        ("optim.milestones=10,20", [10, 20]),
        ("train.loggers=csv", ["csv"]),
        ("data.frame_pattern=img_{:05d}.jpg", "img_{:05d}.jpg"),
        ("data.root=a=b", "a=b"),
    ],
)
def test_words_become_values_of_the_settings_type(text: str, expected: object) -> None:
    key = text.partition("=")[0]
    value: Any = load_settings(None, [text])
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_recipes_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    # YAML 1.1 would make `off` false, `1e-3` a word and `12:30` a number of minutes
    recipe = write(tmp_path, "data: {flip: off, train: 12:30}\noptim: {lr: 1e-3}\nside: {shift: false}\n")
    assert read_recipe(recipe) == {
        "data": {"flip": "off", "train": "12:30"},
        "optim": {"lr": 0.001},
        "side": {"shift": False},
    }
    assert load_settings(recipe).data.flip == "off"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=twelve", r"^data.batch_size: must be a whole number, at least 1; got 'twelve'$"),
        ("data.batch_size=0", r"^data.batch_size: must be a whole number, at least 1; got '0'$"),
        ("data.batch_size=1.5", r"^data.batch_size: must be a whole number, at least 1; got '1.5'$"),
        ("data.num_frames=", r"^data.num_frames: must be a whole number, at least 1; got nothing$"),
        ("data.flip=offf", r"^data.flip: must be off or on or swap; got 'offf'; did you mean 'off'\?$"),
        ("optim.lr=-3", r"^optim.lr: must be a number, above 0; got '-3'$"),
        ("optim.ema=1", r"^optim.ema: must be a number or null, above 0, below 1; got '1'$"),
        ("side.shift=maybe", r"^side.shift: must be true or false; got 'maybe'$"),
        ("side.taps=[1, a]", r"^side.taps: must be text or a list of whole numbers or null; got '\[1, a\]'$"),
        ("data.crop_area=1,2,3", r"^data.crop_area: must be 2 numbers as \[..., ...\]; got '1,2,3'$"),
        ("train.loggers=csv,paper", r"^train.loggers: must be a list of csv, tensorboard, wandb; got 'csv,paper'$"),
        ("side.temporal_kernel=4", r"^side.temporal_kernel: must be odd.*got 4$"),
        ("data.workers=many", r"^data.workers: must be a whole number or auto; got 'many'$"),
        ("data.batchsize=3", r"^unknown setting 'data.batchsize'; did you mean 'data.batch_size'"),
        ("batch_size=3", r"^unknown setting 'batch_size'; did you mean 'data.batch_size'\?$"),
        ("dta.batch_size=3", r"^unknown setting 'dta.batch_size'; did you mean 'data.batch_size'\?$"),
        ("data=3", r"^'data' is a group of settings, not a setting; it has data.train, data.val"),
        ("zzzz=3", r"^unknown setting 'zzzz'; `side4video train --help` lists them all$"),
        ("data.batch_size", r"^an override is key=value, such as data.batch_size=16; got 'data.batch_size'$"),
        ("=3", r"^an override is key=value"),
        ("side.width=[1", r"^side.width: must be a whole number, at least 8; got '\[1'$"),
    ],
)
def test_a_wrong_override_names_the_setting_the_value_and_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(None, [override])


def test_settings_that_do_not_go_together_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^side: num_heads must divide width; got width=40 and 3 heads"):
        load_settings(None, ["side.width=40", "side.num_heads=3"])


def test_a_recipe_with_several_mistakes_tells_all_of_them_and_its_name(tmp_path: Path) -> None:
    recipe = write(tmp_path, "data: {batchsize: 3, flip: yes, mixup: x}\noptim: 4\nsidee: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(recipe)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{recipe}: ") for line in lines)
    told = "\n".join(line.removeprefix(f"{recipe}: ") for line in lines)
    assert "data.flip: must be off or on or swap; got 'yes'" in told
    assert "data.mixup: must be a number, at least 0; got 'x'" in told
    assert "unknown setting 'data.batchsize'; did you mean 'data.batch_size'" in told
    assert "optim: must be a group of settings; got 4" in told
    assert "unknown setting 'sidee'" in told
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {batch_size: [}", r"recipe.yaml line 1: not valid YAML"),
        ("- 1\n- 2\n", r"a recipe is a mapping of settings .*; got list$"),
        ("data:\n  train: !!python/object/apply:os.system [ls]\n", r"line 2: not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(write(tmp_path, text))


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "# nothing yet\n")) == RunSettings()


def test_a_binary_or_missing_recipe_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"data: \xff\xfe")
    with pytest.raises(ConfigError, match=r"not a text file \(byte 6\)"):
        load_settings(path)
    with pytest.raises(ConfigError, match=r"no such recipe file: .*gone.yaml"):
        load_settings(tmp_path / "gone.yaml")


def test_shipped_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "RECIPE_FOLDER", tmp_path)
    (tmp_path / "ssv2-b16.yaml").write_text("data: {num_frames: 8, batch_size: 32}\n")
    (tmp_path / "k400-l14.yaml").write_text("data: {num_frames: 8}\n")
    assert list(shipped_recipes()) == ["k400-l14", "ssv2-b16"]
    assert find_recipe("ssv2-b16") == tmp_path / "ssv2-b16.yaml"
    assert load_settings("ssv2-b16").data.batch_size == 32
    with pytest.raises(ConfigError, match=r"unknown recipe 'ssv2-b1'; did you mean 'ssv2-b16'"):
        load_settings("ssv2-b1")
    with pytest.raises(ConfigError, match=r"unknown recipe 'zz'; shipped recipes: k400-l14, ssv2-b16"):
        load_settings("zz")


def test_what_is_dumped_is_read_back_the_same(tmp_path: Path) -> None:
    settings = load_settings(
        None,
        [
            "data.flip=off",
            "data.crop_area=0.1,0.5",
            "data.flip_pairs=[[left, right]]",
            "optim.lr=1e-05",
            "side.taps=[3]",
        ],
    )
    path = write(tmp_path, dump_settings(settings))
    assert load_settings(path) == settings
    # other YAML readers must understand it too
    assert load_settings(yaml.safe_load(path.read_text())) == settings


def test_an_existing_path_is_no_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_override("data.batch_size=3")
    assert not is_override("clips/a=b")
    assert not is_override("clips")
    (tmp_path / "data=1").mkdir()
    assert not is_override("data=1")


def test_every_setting_has_help_and_takes_its_own_default_as_a_word() -> None:
    for key, field in known_settings().items():
        assert field.description, key
        default = field.default
        word = default if isinstance(default, str) else json.dumps(default)
        assert parse_overrides([f"{key}={word}"])[key] == default, key


def test_a_misspelt_setting_finds_itself() -> None:
    for key in known_settings():
        assert f"'{key}'" in unknown_setting(f"{key[:-1]}{key[-1]}{key[-1]}"), key
