"""`train --memory 12GB`: what is chosen, what is said, and what becomes of sizes that are too small or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from run.small_runs import settings
from side4video.cli.main import main
from side4video.config.schema import RunSettings
from side4video.errors import TrainingError
from side4video.memory.estimate import StepEstimate

MIB = 2**20
# bytes a clip; 500 MiB for weights, and the plan leaves 700 to the driver
PER_CLIP = {"fast": 300 * MIB, "balanced": 60 * MIB, "lean": 30 * MIB, "smallest": 20 * MIB}


class CaughtError(TrainingError):
    """Raised in place of training."""


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """The settings that training would have begun with."""
    seen: list[RunSettings] = []

    def estimator(given: RunSettings, num_classes: int) -> Callable[..., StepEstimate]:
        def estimate(memory: str, batch_size: int, changes: Mapping[str, Any] | None = None, /) -> StepEstimate:
            return StepEstimate(500 * MIB + PER_CLIP[memory] * batch_size, {}, 0, 0, 1, 3, 7, ())

        return estimate

    def train_run(given: RunSettings, out: Path, **kwargs: Any) -> None:
        seen.append(given)
        raise CaughtError("stopped here")

    monkeypatch.setattr("side4video.cli.memory_choice.plan_estimator", estimator)
    monkeypatch.setattr("side4video.build.train_run", train_run)
    return seen


def words(clips: Path, out: Path, *more: str) -> list[str]:
    data = [str(clips / "train"), "--val", str(clips / "val")]
    return ["train", *data, "--out", str(out), *settings("data.batch_size=8", *more)]


@pytest.mark.parametrize(
    ("given", "memory"),
    [
        (["--memory", "5GiB"], "fast"),
        (["--memory", "1.7GiB"], "balanced"),
        (["--memory", "1.45GiB", "memory=fast"], "lean"),
        # of a pair of copies each
        (["--memory", "1.7GiB", "data.repeated_augmentation=2"], "lean"),
        (["--memory", "lean"], "lean"),
        (["memory=smallest"], "smallest"),
    ],
)
def test_the_fastest_mode_that_fits(
    clips: Path, tmp_path: Path, chosen: list[RunSettings], capsys: pytest.CaptureFixture[str],
    given: list[str], memory: str,
) -> None:  # fmt: skip
    assert main(words(clips, tmp_path / "run", *given)) == 2
    (found,) = chosen
    assert (found.memory, found.data.batch_size) == (memory, 8)
    told = capsys.readouterr().err
    assert "warning" not in told
    sized = given[0] == "--memory" and given[1] != "lean"
    assert (f"memory={memory} at a batch of 8 needs" in told) is sized
    assert told.count("too much") == (["fast", "balanced", "lean", "smallest"].index(memory) if sized else 0)


def test_a_smaller_batch_never_silently(
    clips: Path, tmp_path: Path, chosen: list[RunSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(clips, tmp_path / "run", "--memory", "1.25GiB")) == 2
    (found,) = chosen
    assert (found.memory, found.data.batch_size) == ("smallest", 4)
    warning = "warning: data.batch_size is 4 instead of 8, since 8 do not fit: batch norm then sees fewer clips"
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("1GB", "0.93 GiB are too few: the smallest need is 1.19 GiB, for one clip with memory=smallest"),
        ("much", "must be a size such as 12GB, 11.5GiB or 800MB, or fast, balanced, lean, smallest; got 'much'"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_loaded(
    clips: Path, tmp_path: Path, chosen: list[RunSettings], capsys: pytest.CaptureFixture[str], size: str, message: str
) -> None:
    assert main(words(clips, tmp_path / "run", "--memory", size)) == 2
    assert message in capsys.readouterr().err
    assert not chosen
    assert not (tmp_path / "run").exists()
