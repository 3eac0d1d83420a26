from __future__ import annotations

from pathlib import Path

import pytest

from side4video.errors import ConfigError
from side4video.hub import names
from side4video.hub.names import HubName, is_hub_name, parse_hub_name
from side4video.training import checkpoint


def test_names_with_and_without_prefix_and_revision() -> None:
    assert parse_hub_name("hf:me/my-run") == HubName("me/my-run")
    assert parse_hub_name("me/my.run_2@v1.0") == HubName("me/my.run_2", "v1.0")
    assert str(parse_hub_name("me/my-run@feature/x")) == "hf:me/my-run@feature/x"


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:me", "hf:me/a/b", "hf:../etc", "hf:me/..", "hf:/etc/passwd", "hf:me/a b", "hf:me/a@", "hf:me/a@../x"],
)
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"hf:ORG/NAME|a revision is a branch"):
        parse_hub_name(name)


def test_a_path_of_that_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("hf:me/run")
    assert not is_hub_name("runs/mine")
    (tmp_path / "hf:me" / "run").mkdir(parents=True)
    assert not is_hub_name("hf:me/run")


def test_the_files_have_the_names_that_a_run_folder_gives_them() -> None:
    for name in ("WEIGHTS", "CONFIG", "BACKBONE", "CLASSES", "PREPROCESSING", "TEXT", "METRICS", "RUN"):
        assert getattr(names, name) == getattr(checkpoint, name)
