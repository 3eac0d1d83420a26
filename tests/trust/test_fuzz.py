"""A slice of the fuzz campaign, on other inputs than the published one, and what its judges would find."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import fuzz  # noqa: E402
from assets import make_assets  # noqa: E402
from fuzzing import bases as bases_module  # noqa: E402
from fuzzing import video_cases  # noqa: E402
from fuzzing.bases import Base, Bases  # noqa: E402
from fuzzing.outcome import Judged, Stopped, attempt  # noqa: E402
from side4video.data.decode import VideoReader  # noqa: E402
from side4video.errors import VideoError  # noqa: E402

SECONDS = 30
FIRST_SEED = 1_000_000
FEWEST = 100
KNOWN = make_assets.GENERATED / f"v{make_assets.VERSION}-av{av.__version__}"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the undamaged videos, as far as other tests have made them."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "videos").mkdir()
    for path in KNOWN.glob("*.*") if KNOWN.is_dir() else ():
        shutil.copy(path, folder / "videos" / path.name)
    return folder


@pytest.fixture(scope="module")
def bases(work: Path) -> Bases:
    return bases_module.prepare(work, with_long=False)


@pytest.mark.slow
@pytest.mark.xdist_group("fuzz")
def test_a_slice_of_the_campaign_has_no_crash_hang_or_silent_replacement(work: Path) -> None:
    out = work / "slice.json"
    words = ["--inputs", "100000", "--first-seed", str(FIRST_SEED), "--seconds", str(SECONDS), "--no-long"]
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), *words, "--work", str(work), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["failures"] == []
    assert report["inputs"] >= FEWEST
    assert report["outcomes"]["error"] > 0.2 * report["inputs"]
    assert report["outcomes"]["equal"] > 0.05 * report["inputs"]


def judged(path: Path, base: Base, monkeypatch: pytest.MonkeyPatch, work: Path) -> Judged:
    monkeypatch.setenv("FUZZ_BASES", str(work))
    return video_cases.judge(path, base, random.Random(1))


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "mpeg4.avi", "h264.ts"])
def test_a_whole_file_is_equal_and_a_reader_that_is_one_frame_off_is_found(
    name: str, bases: Bases, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, base = work / "videos" / name, bases.videos[name]
    assert judged(path, base, monkeypatch, work).outcome == "equal"
    read = VideoReader.read
    monkeypatch.setattr(VideoReader, "read", lambda self, numbers: read(self, [max(0, n - 1) for n in numbers]))
    found = judged(path, base, monkeypatch, work)
    assert found.outcome == "silent", found


def test_another_files_frames_are_found(bases: Bases, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = work / "videos" / "h264.mp4", work / "other.mp4"
    pictures = [make_assets.draw_frame(40 + number, 96, 72) for number in range(30)]
    make_assets.encode(other, make_assets.BY_NAME["h264.mp4"], pictures)
    real = video_cases.open_video
    monkeypatch.setattr(video_cases, "open_video", lambda _: real(other))
    assert judged(path, bases.videos["h264.mp4"], monkeypatch, work).outcome == "silent"


def test_other_exceptions_and_errors_without_a_name_are_found() -> None:
    def fail(error: Exception) -> None:
        raise error

    for error, outcome in (
        (KeyError("x"), "crash"),
        (VideoError("a/b.mp4", "empty file"), "error"),
        (VideoError("a/c.mp4", "empty file"), "unnamed"),
        (MemoryError(), "memory"),
    ):
        with pytest.raises(Stopped, match=outcome):
            attempt(lambda error=error: fail(error), ["b.mp4"])


ENDS: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleep": lambda: time.sleep(60),
    "grow": lambda: list(bytes(7 * 10**7)),
    "raise": lambda: {}["nothing"],
}


@pytest.mark.parametrize(
    ("end", "outcome"), [("killed", "crash"), ("sleep", "hang"), ("grow", "memory"), ("raise", "crash")]
)
def test_the_runner_tells_how_a_process_ended(
    end: str, outcome: str, bases: Bases, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def case(*_: object) -> tuple[str, Judged]:
        ENDS[end]()
        return end, Judged("read")

    monkeypatch.setattr(fuzz, "CASES", {"some": (1, case)})
    limits = fuzz.Limits(wall_seconds=4 if end == "sleep" else 60, resident_mib=300, address_mib=3000)
    found = fuzz.run_one(1, work, bases, limits)
    assert found.outcome == outcome, found


def test_an_input_is_made_from_its_seed_alone(bases: Bases, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_BASES", str(work))
    seed = next(s for s in range(FIRST_SEED, FIRST_SEED + 50) if fuzz._begin(s)[1] == "video: bytes")
    torch.manual_seed(7)
    once = fuzz.run_one(seed, work, bases, fuzz.Limits())
    torch.manual_seed(8)
    again = fuzz.run_one(seed, work, bases, fuzz.Limits())
    assert (once.family, once.mutation, once.outcome) == (again.family, again.mutation, again.outcome)
