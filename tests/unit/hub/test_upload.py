from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import safetensors.numpy

from side4video import push_to_hub
from side4video.build_hub import save_for_hub
from side4video.config.load import load_settings
from side4video.errors import CheckpointError, ConfigError
from unit.hub.conftest import SECRET
from unit.hub.fake_hub import FakeHub

SHARED = {
    "README.md", "config.yaml", "backbone.json", "side.safetensors", "classes.json", "preprocessing.json",
    "metrics.json", "run.json",
}  # fmt: skip
TOKEN = "hf_AbCdEfGhIjKlMnOp"


def test_what_goes_up_is_a_list_and_says_nothing_of_this_machine(run: Path, hub: FakeHub) -> None:
    assert push_to_hub(run, "me/my-run", license="mit") == f"{hub.address}/me/my-run"
    files = hub.files["me/my-run"]
    assert set(files) == SHARED
    for name, content in files.items():
        assert SECRET.encode() not in content, name
        assert b"somebody" not in content, name
    assert files["side.safetensors"] == (run / "side.safetensors").read_bytes()
    assert json.loads(files["run.json"])["train_videos"] == 15
    assert b"| data | clips |" in files["README.md"]
    assert b"0.8750" in files["README.md"]
    assert not hub.private


def test_a_new_repository_can_be_private(run: Path, hub: FakeHub) -> None:
    push_to_hub(run, "hf:me/my-run", private=True)
    assert hub.private == {"me/my-run"}


def test_a_folder_gets_the_same_files_and_is_never_overwritten(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    push_to_hub(run, "local/shared")
    folder = save_for_hub(run, tmp_path / "shared")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == hub.files["local/shared"]
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        save_for_hub(run, folder)
    assert load_settings(folder / "config.yaml").data.train is None


def test_no_token_is_ever_shown(
    run: Path, hub: FakeHub, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)  # the most that a command ever shows
    for status in (400, 401, 403):
        hub.refuse = status
        with pytest.raises(CheckpointError, match=r"^hf:me/my-run: nothing was uploaded: ") as caught:
            push_to_hub(run, "me/my-run", token=TOKEN)
        assert TOKEN not in str(caught.value)
        # neither in the chain that a traceback would print
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    assert TOKEN not in caplog.text
    assert hub.asked  # it was asked, with the token, every time


def test_the_token_that_is_given_is_used(run: Path, hub: FakeHub) -> None:
    hub.token = TOKEN
    with pytest.raises(CheckpointError, match=r"no token|says no"):
        push_to_hub(run, "me/my-run")
    push_to_hub(run, "me/my-run", token=TOKEN)
    assert set(hub.files["me/my-run"]) == SHARED


def test_a_run_that_nobody_else_could_use_stays_here(run: Path, hub: FakeHub) -> None:
    safetensors.numpy.save_file({}, run / "backbone.safetensors")
    with pytest.raises(CheckpointError, match="keeps frozen weights of its own"):
        push_to_hub(run, "me/my-run")
    (run / "backbone.safetensors").unlink()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("name: tiny-clip", "name: custom:MyTrunk"))
    with pytest.raises(CheckpointError, match="'custom:MyTrunk' is not one that everybody can have"):
        push_to_hub(run, "me/my-run")
    (run / "config.yaml").write_text(config)
    (run / "classes.json").write_text(json.dumps(["a", "b", "tab\there"]))
    with pytest.raises(CheckpointError, match="too long or not printable"):
        push_to_hub(run, "me/my-run")
    assert hub.asked == []


def test_without_a_connection_nothing_hangs(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="nothing was uploaded: HF_HUB_OFFLINE is set"):
        push_to_hub(run, "me/my-run")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"127.0.0.1:9 cannot be reached"):
        push_to_hub(run, "me/my-run")
    assert hub.asked == []
