"""`side4video plan` end to end, on the meta device: nothing is downloaded, whatever the backbone."""

from __future__ import annotations

import json

import pytest

from side4video.cli.main import BAD_INPUT, DONE, main
from side4video.memory.estimate import CAUSES

TINY = ["plan", "--backbone", "tiny-clip", "side.width=64", "side.taps=[1]", "--batch-size", "3", "--num-frames", "5"]


def test_json_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--memory", "2GB", "--card", "rtx-4090", "--clips", "100", "--json"]) == DONE
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True
    assert plan["budget_bytes"] == 2 * 10**9
    assert set(plan["by_cause"]) == set(CAUSES)
    assert sum(plan["by_cause"].values()) == plan["peak_bytes"]
    assert plan["gflops_step"] > plan["gflops_forward"] > 0
    assert plan["trainable_parameters"] > 10_000
    assert plan["seconds_per_epoch"] == pytest.approx(34 * plan["seconds_per_step"])
    assert {s["settings"]["memory"] for s in plan["suggestions"]} == {"fast", "balanced", "lean", "smallest"}


def test_a_published_backbone_needs_no_download(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--backbone", "open_clip:ViT-B-32/openai", "side.taps=top:1", "--batch-size", "2", "--json"]
    assert main(words) == DONE
    plan = json.loads(capsys.readouterr().out)
    # 87.8 M frozen parameters in 16 bits
    assert plan["by_cause"]["frozen weights"] == pytest.approx(2 * 87.8e6, rel=0.01)


def test_the_memory_mode_can_be_set_beside_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "memory=lean", "--memory", "1GiB"]) == DONE
    out = capsys.readouterr().out
    assert "memory=lean" in out
    assert "fits into 1.00 GiB" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "much"], "memory: must be a size such as 12GB"),
        (["--card", "rtx-9999"], "card 'rtx-9999' is not known"),
        (["--classes", "0"], "--classes: must be at least 1"),
        (["memory=huge"], "memory: must be fast or balanced or lean or smallest"),
        (["side.taps=top:99"], r"top:N must have N in 1..6"),
        (["nonsense"], "RECIPE must be a .yaml file"),
    ],
)
def test_bad_words_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, *words]) == BAD_INPUT
    assert message in capsys.readouterr().err
