"""The demo of retrieval from drawing to search, at a size that takes seconds; running it measures its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from side4video.cli.main import main
from side4video.demo import retrieval as demo
from side4video.demo.captions import MOTIONS
from side4video.demo.retrieval import RetrievalDemoSize

SHARES = {"t2v_r1", "frozen_t2v_r1", "frozen_wti_t2v_r1", "shuffled_t2v_r1"} | {
    f"{model}_{share}" for model in ("side", "frozen") for share in ("r5", "scene", "motion", "direction")
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEFAULT_SIZE", RetrievalDemoSize(train_scenes=2, gallery_scenes=2, epochs=1))


def test_json_and_what_it_leaves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--task", "retrieval", "--json", "--seed", "3", "--out", str(out)]) == 0
    value = json.loads(capfd.readouterr().out)
    assert set(value) == SHARES | {"seconds", "search_rank"}
    assert all(0 <= value[key] <= 1 for key in SHARES)
    assert 1 <= value["search_rank"] <= 2 * len(MOTIONS)
    assert len(list((out / "clips").rglob("*.mp4"))) == 4 * len(MOTIONS)
    # an ordinary run, and an ordinary library
    assert main(["evaluate", str(out / "run"), "data.workers=0", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["t2v_r1"] == value["t2v_r1"]
    assert main(["search", "a", "circle", "grows", "--in", str(out / "library"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert {Path(entry["path"]).parent for entry in found} == {out / "clips" / "gallery"}


def test_the_summary_names_every_number_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["demo", "--task", "retrieval"]) == 0
    printed = capfd.readouterr().out
    for words in (
        "R@1",
        "right motion",
        "frames shuffled",
        "mean of the frames",
        "(WTI)",
        "chance",
        "search:",
        "next:",
    ):
        assert words in printed, words
    assert list(tmp_path.glob("side4video-demo-*")) == []
