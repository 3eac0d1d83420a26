"""`side4video sweep` from words to run folders and a comparison."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from run.small_runs import settings
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
