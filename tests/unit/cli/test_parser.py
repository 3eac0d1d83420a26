"""Words of a command line as options and settings."""

from __future__ import annotations

import pytest

from side4video.cli.parser import CommandParser
from side4video.errors import ConfigError


def make(*, only: frozenset[str] | None = None) -> CommandParser:
    parser = CommandParser(prog="side4video try", usage="SOURCE", description="d", epilog="examples:")
    parser.add_argument("words", nargs="*")
    parser.add_option("--out", help="a folder")
    parser.add_option("--top-k", type=int, default=5, help="a number")
    parser.add_common()
    parser.add_settings({"--lr": "optim.lr", "--backbone": "backbone.name"}, only=only)
    return parser


def test_positional_words_may_stand_anywhere() -> None:
    options = make().parse_words(["a", "--out", "run", "b", "data.batch_size=3", "--json", "c", "--top-k=2"])
    assert options.words == ["a", "b", "c"]
    assert options.out == "run"
    assert options.json is True
    assert options.debug is False
    assert options.top_k == 2
    assert options.overrides == {"data.batch_size": "3"}


def test_flags_short_flags_and_pairs_are_the_same_thing() -> None:
    for words in (["optim.lr=0.5"], ["--optim.lr", "0.5"], ["--optim.lr=0.5"], ["--lr", "0.5"], ["--lr=0.5"]):
        assert make().parse_words(words).overrides == {"optim.lr": "0.5"}


def test_the_last_one_wins_whatever_its_form() -> None:
    assert make().parse_words(["--lr", "1", "optim.lr=2", "--optim.lr", "3"]).overrides == {"optim.lr": "3"}
    assert make().parse_words(["--optim.lr", "3", "optim.lr=2"]).overrides == {"optim.lr": "2"}


def test_values_may_look_like_anything() -> None:
    options = make().parse_words(
        ["--lr", "-3", "--backbone=open_clip:ViT-B-16/openai", "data.root=a=b c", "data.flip=off", "--out", "-"]
    )
    assert options.overrides == {
        "optim.lr": "-3",
        "backbone.name": "open_clip:ViT-B-16/openai",
        "data.root": "a=b c",
        "data.flip": "off",
    }
    assert options.out == "-"
    assert make().parse_words(["--backbone", "tiny-clip"]).overrides == {"backbone.name": "tiny-clip"}


def test_after_two_dashes_everything_is_positional() -> None:
    assert make().parse_words(["--out", "x", "--", "--json", "optim.lr=3"]).words == ["--json", "optim.lr=3"]


def test_what_was_not_said_is_not_an_override() -> None:
    assert make().parse_words([]).overrides == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch"], "unknown setting 'batch'; did you mean 'data.batch_size'|unknown option '--batch'"),
        (["--data.batchsize", "3"], "unknown setting 'data.batchsize'; did you mean 'data.batch_size'"),
        (["data.batchsize=3"], "unknown setting 'data.batchsize'; did you mean 'data.batch_size'"),
        (["--ot", "x"], "unknown option '--ot'; did you mean '--out'"),
        (["--jsonn"], "unknown option '--jsonn'; did you mean '--json'"),
        (["--out"], "--out: needs a value"),
        (["--out", "--json"], "--out: needs a value"),
        (["--top-k", "many"], "--top-k: must be a whole number; got 'many'"),
        (["-x"], "unknown option '-x'|unknown setting 'x'"),
    ],
)
def test_wrong_words_are_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        make().parse_words(words)
    assert capsys.readouterr() == ("", ""), "nothing but the exception"


def test_a_setting_that_is_not_for_this_command_says_which_are() -> None:
    parser = make(only=frozenset({"optim.lr"}))
    assert parser.parse_words(["--lr", "3"]).overrides == {"optim.lr": "3"}
    for words in (["side.width=64"], ["--side.width", "64"]):
        with pytest.raises(ConfigError, match=r"setting 'side.width' cannot be changed here; these can: optim.lr"):
            parser.parse_words(words)
    assert "side.*" not in parser.format_help()
