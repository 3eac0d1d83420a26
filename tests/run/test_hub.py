"""Commands on runs of the hub: share, predict, and the words that do not go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from run.small_export import write_small_run
from run.small_runs import CLASSES, draw_clip
from side4video.backbones import hub as backbones_hub
from side4video.cli.main import main
from unit.hub.fake_hub import at_hub, running_hub


def test_a_run_is_shared_and_predicts_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_small_run(tmp_path / "run")
    video = draw_clip(tmp_path / "clip.mp4", CLASSES[0], seed=1)
    monkeypatch.setattr(backbones_hub, "getproxies", dict)
    with running_hub() as hub:
        at_hub(monkeypatch, hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_NotForEverybodysEyes")
        assert main(["export", str(run), "hf:me/mine", "--private", "--license", "mit", "--json"]) == 0
        shared = capsys.readouterr()
        assert json.loads(shared.out) == {"repository": "hf:me/mine", "url": f"{hub.address}/me/mine"}
        assert hub.private == {"me/mine"}
        assert b"license: mit" in hub.files["me/mine"]["README.md"]
        assert main(["predict", "hf:me/mine", str(video), "--json"]) == 0
        remote = capsys.readouterr()
        assert main(["predict", str(run), str(video), "--json"]) == 0
        local = capsys.readouterr()
        assert json.loads(remote.out) == json.loads(local.out)
        assert main(["predict", "hf:me/nothing", str(video)]) == 2
        refused = capsys.readouterr()
        assert "hf:me/nothing: " in refused.err
        assert "Traceback" not in refused.err
    for captured in (shared, remote, refused):
        assert "NotForEverybodysEyes" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hf:me/a/b"], "a run on the hub is named hf:ORG/NAME"),
        (["hf:me/run", "--int8"], "--int8: for .onnx and .pt2 files; got OUT 'hf:me/run'"),
        (["folder/", "--private"], "--private is for hf:ORG/NAME"),
        (["m.onnx", "--license", "mit"], "--private and --license are for hf:ORG/NAME or a FOLDER/"),
        (["hf:me/run"], "nothing was uploaded: HF_HUB_OFFLINE is set"),
    ],
)
def test_words_that_do_not_go_together(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    run = write_small_run(tmp_path / "run")
    assert main(["export", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_small_run(tmp_path / "run")
    assert main(["export", str(run), f"{tmp_path}/shared/", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert "README.md" in value["files"]
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == value["files"]
