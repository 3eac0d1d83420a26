"""`side4video search`: moments by text, picture and clip, cut out when asked; and what bad words get."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from run.retrieval_runs import write_retrieval_run
from side4video.backbones.create_text import create_tokenizer
from side4video.build import load_text_model
from side4video.cli.main import main
from side4video.data.caption_dataset import CenterCrop
from side4video.data.decode import VideoReader
from side4video.data.transforms import PixelFormat
from side4video.search.library import LEDGER_FILE, open_library
from side4video.streaming.clock import clock


@pytest.fixture(scope="module")
def lib(retrieval_run: Path, footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The footage in windows of 4 frames at 4 a second, one every 2. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("search") / "lib"
    words = ["--frames", "4", "--stride", "2", "--fps", "4", "--into", str(folder)]
    assert main(["index", str(retrieval_run), str(footage), *words]) == 0
    return folder


@pytest.fixture
def own_lib(lib: Path, tmp_path: Path) -> Iterator[Path]:
    """A library that a test may change."""
    return Path(shutil.copytree(lib, tmp_path / "own-lib"))  # type: ignore[return-value]


def search(capsys: pytest.CaptureFixture[str], lib: Path, *words: object, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["search", *map(str, words), "--in", str(lib), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one message of a call that ends with 2."""
    capsys.readouterr()
    assert main(["search", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@torch.no_grad()
def test_text_finds_moments_with_the_models_exact_scores(
    retrieval_run: Path, footage: Path, lib: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = search(capsys, lib, "a bright square grows", "--top", 40)
    assert list(found[0])[:4] == ["path", "start", "end", "score"]
    assert {Path(entry["path"]) for entry in found} == set(footage.rglob("*.mp4"))
    assert [entry["score"] for entry in found] == sorted((entry["score"] for entry in found), reverse=True)
    for entry in found:
        with VideoReader(entry["path"]) as reader:
            assert 0 <= entry["start"] < entry["end"] <= reader.info.duration_seconds + 1e-3
    # the best window of the shortest video, by hand: 4 of its 10 frames, 2.5 apart
    (short,) = (entry for entry in found if Path(entry["path"]).name == "0.mp4")
    model = load_text_model(retrieval_run)
    wanted = model.backbone.preprocessing
    crop = CenterCrop(PixelFormat(wanted.image_size, wanted.mean, wanted.std, wanted.interpolation))
    with VideoReader(footage / "night" / "0.mp4") as reader:
        frames_1TE = model.encode_video(crop(reader.read([0, 3, 5, 8])).unsqueeze(0))
    tokens = create_tokenizer("tiny-clip")(["a bright square grows"])
    mask_1T = torch.ones(1, 4, dtype=torch.bool)
    sim = model.similarity(model.encode_text(tokens.ids_MQ), tokens.mask_MQ, frames_1TE, mask_1T).item()
    assert short["score"] == pytest.approx(sim, abs=1e-5)
    assert (short["start"], short["end"]) == (0, 1)


def test_filters_and_the_table(footage: Path, lib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = search(capsys, lib, "a square", "--path", "night", "--top", 30)
    assert {Path(entry["path"]).name for entry in found} == {"0.mp4", "2.mp4", "4.mp4"}
    late = search(capsys, lib, "a square", "--after", "0:04.5", "--top", 30)
    assert {Path(entry["path"]).name for entry in late} == {"4.mp4", "5.mp4"}
    assert search(capsys, lib, "a square", "--path", "nowhere/*") == []
    capsys.readouterr()
    assert main(["search", "a", "square", "--in", str(lib), "--top", "3", "--path", "day/5.mp4"]) == 0
    shown = capsys.readouterr().out
    first = search(capsys, lib, "a square", "--top", 1, "--path", "day/5.mp4")[0]
    assert f"{clock(first['start'])} - {clock(first['end'])}" in shown
    assert f"{first['score']:.3f}" in shown
    assert "day/5.mp4" in shown
    assert main(["search", "a square", "--in", str(lib), "--path", "nowhere"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing found: no window of the library meets the filters" in err


def test_examples_find_their_own_video(
    footage: Path, lib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = footage / "day" / "3.mp4"
    found = search(capsys, lib, "--video", clip, "--start", 1, "--end", "0:02")
    assert Path(found[0]["path"]) == clip
    assert found[0]["start"] < 2
    assert found[0]["end"] > 1
    from PIL import Image

    with VideoReader(clip) as reader:
        Image.fromarray(reader.read([30])[0].permute(1, 2, 0).numpy()).save(tmp_path / "still.png")
    assert search(capsys, lib, "--image", tmp_path / "still.png")[0]["score"] <= 1
    assert "not a readable picture" in refused(capsys, "--image", clip, "--in", lib)
    assert "no such file" in refused(capsys, "--video", tmp_path / "gone.mp4", "--in", lib)
    assert "after the last frame" in refused(capsys, "--video", clip, "--start", "99", "--in", lib)


def test_moments_are_cut_out(footage: Path, own_lib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "clips"
    found = search(capsys, own_lib, "a square", "--top", 3, "--save-clips", folder)
    assert sorted(folder.iterdir()) == sorted(Path(entry["clip"]) for entry in found)
    for entry in found:
        with av.open(entry["clip"]) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert container.duration is not None
            assert container.duration / 1e6 == pytest.approx(entry["end"] - entry["start"], abs=0.05)
            assert sum(1 for _ in container.decode(video=0)) >= 1
    # a video that is gone is named; the others are cut
    copied = tmp_path / "footage"
    shutil.copytree(footage, copied)
    text = (own_lib / LEDGER_FILE).read_text()
    assert str(footage) in text
    moved = shutil.copy(footage / "night" / "0.mp4", tmp_path / "gone.mp4")
    with open_library(own_lib) as library:
        path = (footage / "night" / "0.mp4").as_posix()
        library.copy(
            library.entries[path], moved.as_posix() if isinstance(moved, Path) else moved, library.entries[path].state
        )
    Path(moved).unlink()
    again = search(capsys, own_lib, "a square", "--path", "*0.mp4", "--save-clips", tmp_path / "c", code=0)
    assert len(again) == 1
    found = search(capsys, own_lib, "a square", "--path", "gone.mp4", "--save-clips", tmp_path / "d", code=1)
    assert "clip" not in found[0]


def test_another_model_is_refused_and_a_moved_run_is_named(
    retrieval_run: Path, lib: Path, footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_retrieval_run(tmp_path / "other", seed=1)
    message = refused(capsys, "a square", "--in", lib, "--run", other)
    assert f"{lib} was indexed with another model than {other}" in message
    assert "backbone 'tiny-clip'" in message
    moved = Path(shutil.copytree(retrieval_run, tmp_path / "moved"))
    own = tmp_path / "lib"
    assert main(["index", str(moved), str(footage / "night" / "0.mp4"), "--into", str(own), "--store", "flat"]) == 0
    moved.rename(tmp_path / "elsewhere")
    assert "name it with --run" in refused(capsys, "a square", "--in", own)
    assert len(search(capsys, own, "a square", "--run", tmp_path / "elsewhere")) == 1
    # the same place, trained further
    write_retrieval_run(moved, seed=2)
    assert "another model" in refused(capsys, "a square", "--in", own)


def test_a_library_of_another_version(own_lib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = own_lib / "store" / "store.json"
    store.write_text(json.dumps({**json.loads(store.read_text()), "layout": 99}))
    assert "layout 99 comes from a newer side4video" in refused(capsys, "a square", "--in", own_lib)


def test_a_long_text_is_cut_with_a_warning(lib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "a square " * 40, "--in", str(lib), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) > 0
    assert "tokens are cut off" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--in", "{lib}"], "say what to look for: a text, --image FILE or --video FILE, one of them; got nothing"),
        (["a dog", "--image", "x.png", "--in", "{lib}"], "got a text and --image"),
        (["", "--in", "{lib}"], "must have a word in it; got ''"),
        (["  ", "--in", "{lib}"], "must have a word in it; got '  '"),
        (["a dog"], "--in"),
        (["a dog", "--in", "gone"], "gone does not exist; `side4video index RUN FOOTAGE --into gone` makes one"),
        (["a dog", "--in", "."], "is no library"),
        (["a dog", "--in", "{lib}", "--top", "0"], "--top: must be at least 1; got 0"),
        (["a dog", "--in", "{lib}", "--after", "soon"], "--after: must be a time in seconds, as m:ss or as h:mm:ss"),
        (["a dog", "--in", "{lib}", "--after", "9", "--before", "0:08"], "--after: must be before --before"),
        (["a dog", "--in", "{lib}", "--start", "1"], "--start and --end are a part of --video, which is not given"),
        (["a dog", "--in", "{lib}", "--run", "nowhere"], "no such run folder: 'nowhere'"),
    ],
)
def test_bad_words(
    lib: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *(word.format(lib=lib) for word in words))
    assert list(tmp_path.iterdir()) == []


def test_times_for_people() -> None:
    assert [clock(s) for s in (0, 9.96, 59.97, 75.25, 3600, 3725.5)] == [
        "0:00.0", "0:10.0", "1:00.0", "1:15.2", "1:00:00.0", "1:02:05.5",
    ]  # fmt: skip
