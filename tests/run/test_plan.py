"""`side4video plan` end to end, on the meta device: nothing is downloaded, whatever the backbone."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert {s["result"] for s in plan["suggestions"]} == {"same"}
    # two of six blocks, and a step runs them forward only
    assert 0 < plan["gflops_frozen"] < plan["gflops_forward"]
    assert plan["frozen_forwards_per_step"] == pytest.approx(plan["gflops_step"] / plan["gflops_frozen"])
    extra = plan["extra_flops_of_modes"]
    assert extra["fast"] == 0 < extra["balanced"] <= extra["smallest"]
    assert plan["largest_batch"]["settings"]["data.batch_size"] == 24
    # one tap of 65 tokens, 128 channels in 16 bits, 5 frames and their pixels
    assert plan["cache"]["bytes_per_clip"] == 5 * (65 * 128 * 2 + 3 * 64 * 64)
    assert plan["cache"]["bytes"] == 100 * plan["cache"]["bytes_per_clip"]


def test_retrieval_counts_its_text_tower(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "--task", "retrieval", "--json"]
    assert main(words) == DONE
    trained = json.loads(capsys.readouterr().out)
    assert main([*words, "retrieval.train_text=false"]) == DONE
    frozen = json.loads(capsys.readouterr().out)
    assert trained["trainable_parameters"] > 2 * frozen["trainable_parameters"]
    assert trained["peak_bytes"] > frozen["peak_bytes"]
    # the class token of the last block beside the tap
    assert trained["cache"]["bytes_per_clip"] == 5 * (66 * 128 * 2 + 3 * 64 * 64)
    assert trained["gflops_frozen"] == frozen["gflops_frozen"]


def test_clips_are_those_of_the_data_set(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, f"data.train={clips / 'train'}", f"data.val={clips / 'val'}", "--card", "t4"]) == DONE
    out = capsys.readouterr().out
    assert "an epoch of 15, if decoding keeps up" in out
    assert "GB for 15 clips" in out
    assert main([*TINY, "data.train=nowhere", "--card", "t4"]) == DONE
    captured = capsys.readouterr()
    assert "--clips N gives it" in captured.err
    assert "an epoch" not in captured.out
    assert "MB a clip" in captured.out


def test_what_does_not_fit_gets_other_settings_by_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--backbone", "tiny-clip", "side.width=128", "--batch-size", "2", "--memory", "740MB", "--json"]
    assert main(words) == DONE
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is False
    results = [s["result"] for s in plan["suggestions"] if not s["fits"]]
    assert results == sorted(results, key=["same", "approximate", "another model"].index)
    changes = [s["settings"] for s in plan["suggestions"] if s["result"] == "another model"]
    assert {"side.taps": "every_second"}.items() <= changes[0].items() or {"side.width": 64}.items() <= changes[
        0
    ].items()
    assert len(changes) == 2


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
