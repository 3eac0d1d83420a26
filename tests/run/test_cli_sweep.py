"""`side4video sweep` from words to run folders and a comparison."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from run.small_runs import settings
from side4video.backbones.base import FrozenBackbone
from side4video.cli.main import main


def test_a_sweep_from_words_to_a_comparison(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    words = ["sweep", str(clips / "train"), "--val", str(clips / "val"), "--out", str(out), "--epochs", "1", "--json"]
    words += [*settings(), "side.temporal=conv,none", "--lr", "1e-3,1e30", "optim.warmup_epochs=0", "side.taps=[0,2]"]
    assert main(words) == 1
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    said = captured.err
    assert said.index("4 variants over 1 frozen pass of the training set an epoch") < said.index("epoch 1/1")
    names = [row["name"] for row in value["variants"]]
    assert names == [f"temporal-{kind}_lr-{rate}" for kind in ("conv", "none") for rate in ("1e-3", "1e30")]
    assert [row["status"] for row in value["variants"]] == ["finished", "failed"] * 2
    assert "failed: temporal-conv_lr-1e30: the loss became NaN" in said or "weights became NaN" in said
    assert value["best"] in {names[0], names[2]}
    parameters = [row["parameters"] for row in value["variants"]]
    assert parameters[0] == parameters[1] > parameters[2]
    # the same rows, as a table for a spreadsheet and on a page that needs nothing else
    assert json.loads((out / "comparison.json").read_text()) == value["variants"]
    with (out / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["side.temporal"] for row in rows] == ["conv", "conv", "none", "none"]
    page = (out / "comparison.html").read_text()
    assert page.count('<circle class="dot"') == 4
    assert not re.search(r'(src|href)="http', page)
    # each is a run like any other
    assert main(["evaluate", str(out / names[0]), "--json"]) == 0
    capsys.readouterr()
    # a finished sweep that is resumed stays as it is; another one is refused
    assert main(["sweep", "--out", str(out), "--resume"]) == 1
    assert "1.0e-03" not in capsys.readouterr().out
    assert main([*words[:-1], "side.taps=[1,2]", "--resume"]) == 2
    assert "is another one; they differ in temporal-conv_lr-1e-3" in capsys.readouterr().err
    assert main(words) == 2
    assert "in use, and nothing is overwritten; go on with it: --resume" in capsys.readouterr().err


def test_variants_train_from_one_cache(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ["--cache", str(tmp_path / "cache"), "--yes", "--json", *settings("optim.epochs=1", "optim.lr=1e-2")]
    data = [str(clips / "train"), "--val", str(clips / "val")]
    taps = "side.taps=[0,2],[4]"
    assert main(["sweep", *data, "--out", str(tmp_path / "sweep"), taps, *cache]) == 0

    run = FrozenBackbone.stream

    def stream(self: FrozenBackbone, clip_BTCHW: Tensor, *rest: Any, **options: Any) -> Any:
        # the table's memory and arithmetic come from tensors without numbers
        assert isinstance(clip_BTCHW, FakeTensor), "the backbone runs"
        return run(self, clip_BTCHW, *rest, **options)

    monkeypatch.setattr(FrozenBackbone, "stream", stream)
    # what one of them would have been alone, and another sweep: both from what the first one stored
    assert main(["train", *data, "--out", str(tmp_path / "alone"), "side.taps=[4]", *cache]) == 0
    assert main(["sweep", *data, "--out", str(tmp_path / "again"), taps, *cache]) == 0
    expected = (tmp_path / "alone" / "last.safetensors").read_bytes()
    for sweep in ("sweep", "again"):
        assert (tmp_path / sweep / "taps-4" / "last.safetensors").read_bytes() == expected
        assert len(json.loads((tmp_path / sweep / "comparison.json").read_text())) == 2
        assert {row["group"] for row in json.loads((tmp_path / sweep / "comparison.json").read_text())} == {1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["side.temporal=conv,conv"], "side.temporal: values must differ and not be empty; got conv,conv"),
        (["train.devices=1,2"], "train.devices: must be the same in the whole sweep; got 1,2"),
        (["optim.betas=0.9,0.95"], "a list goes into brackets"),
        (["side.width=24,none"], "side.width=none: side.width: must be a whole number, at least 8; got 'none'"),
        (
            [f"{key}={','.join(map(str, range(1, 18)))}" for key in ("optim.epochs", "optim.accumulate")],
            "may have 256 variants; got 289",
        ),
    ],
)
def test_bad_words(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    out = tmp_path / "sweep"
    assert main(["sweep", str(clips / "train"), "--out", str(out), *settings(), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
