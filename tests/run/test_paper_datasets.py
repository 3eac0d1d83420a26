"""Each of the paper's six data sets, as it is downloaded: prepare, train, evaluate with the paper's views, predict.

From the shipped recipe, with only paths and sizes overridden.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from run.published import DRAW
from run.small_runs import TINY, draw_clip
from run.test_retrieval_recipes import draw_msrvtt, draw_msvd, draw_vatex
from side4video.cli.main import main
from side4video.data.catalog import known_dataset

SMALL = (*TINY, "data.workers=0", "data.batch_size=3", "train.accelerator=cpu", "optim.epochs=1")


def printed(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> Any:
    assert main([*words, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("recipe", "to"),
    [("ssv1-b16-light", "frames"), ("ssv2-l14-16f", "videos"), ("ssv2-b16-50pct", "frames"), ("k400-e14", "videos")],
)
def test_recognition(recipe: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = recipe.partition("-")[0]
    src, dst, out = tmp_path / "src", tmp_path / "dst", tmp_path / "run"
    DRAW[name](src)
    prepared = printed(capsys, 0, "prepare", name, str(src), str(dst), "--to", to, "--size", "64", "--workers", "1")
    assert prepared["splits"]["train"]["ready"] == 12
    paths = (f"data.root={dst}", "data.classes=classes.csv")
    sizes = (*SMALL, "data.num_frames=4", "optim.warmup_epochs=0")
    done = printed(capsys, 0, "train", recipe, "--out", str(out), *paths, *sizes)
    assert (done["steps"], done["broken"]) == (2 if recipe.endswith("50pct") else 4, 0)
    crops, clips = known_dataset(name).test_views or (0, 0)
    result = printed(capsys, 0, "evaluate", str(out), "--views", f"{clips}x{crops}")
    assert (result["views"], result["num_videos"]) == (f"{clips}x{crops}", 3)
    assert len(result["classes"]) == known_dataset(name).num_classes
    video = draw_clip(tmp_path / "new.mp4", "grow", seed=500)
    (entry,) = printed(capsys, 0, "predict", str(out), str(video), "--views", f"{clips}x{crops}")
    assert entry["predictions"][0]["label"] in result["classes"]


@pytest.mark.parametrize(
    ("recipe", "draw_all", "to", "num_test", "missing"),
    [
        ("msrvtt-b16", draw_msrvtt, "videos", 3, ["video9"]),
        ("msvd-b32", draw_msvd, "frames", 3, []),
        ("vatex-b16", draw_vatex, "videos", 3, []),
    ],
)
def test_retrieval(
    recipe: str,
    draw_all: Callable[[Path], None],
    to: str,
    num_test: int,
    missing: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = recipe.partition("-")[0]
    src, dst, out = tmp_path / "src", tmp_path / "dst", tmp_path / "run"
    draw_all(src)
    words = ["prepare", name, str(src), str(dst), "--to", to, "--size", "64", "--workers", "1"]
    prepared = printed(capsys, 1 if missing else 0, *words)
    assert prepared["missing"] == missing
    # what is missing is in no list any more: the recipe needs no retrieval.missing
    sizes = (*SMALL, "data.num_frames=5", "retrieval.chunk_size=2")
    done = printed(capsys, 0, "train", recipe, "--out", str(out), f"data.root={dst}", *sizes)
    assert done["steps"] >= 1
    test = [] if name == "msrvtt" else ["retrieval.val_split=test"]
    result = printed(capsys, 0, "evaluate", str(out), *test, "data.workers=0")
    assert (result["num_videos"], result["missing"], result["broken"]) == (num_test, 0, 0)
    video = draw_clip(tmp_path / "new.mp4", "grow", seed=500)
    sentences = ("--text", "a square grows", "--text", "a square moves to the left")
    (entry,) = printed(capsys, 0, "predict", str(out), str(video), *sentences)
    assert {one["label"] for one in entry["predictions"]} == set(sentences[1::2])
