"""`side4video predict --timeline` on a trained run, and the files that it writes."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from run.small_runs import CLASSES, draw_clip
from side4video import load
from side4video.build import pixel_format
from side4video.cli.main import main
from side4video.data.decode import open_video
from side4video.data.transforms import TestTransform


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds at 10 frames a second."""
    return draw_clip(tmp_path_factory.mktemp("timeline") / "a & <b>.mp4", "grow", seed=3, num_frames=50)


def predict(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["predict", *map(str, words), "--timeline", "--json"]) == code
    return json.loads(capsys.readouterr().out)


class Page(HTMLParser):
    """Tags with their attributes, and the JSON of each timeline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[dict[str, Any]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.data.append(json.loads(data))
            self._inside = False


def test_files_agree_with_windows_on_their_own(
    trained: Path, long_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / f"line.{suffix}" for suffix in ("json", "csv", "srt", "html")]
    words = [word for path in outputs for word in ("--out", path)]
    (shown,) = predict(
        capsys, trained, long_video, "--fps", "5", "--stride", "1", "--threshold", "0.34", "--gap-seconds", "0", *words
    )
    (line,) = json.loads(outputs[0].read_text())
    assert {key: line[key] for key in shown} == shown
    assert (shown["path"], shown["run"], shown["frames_decoded"]) == (str(long_video), str(trained), 25)
    assert shown["segments"], "the threshold is so low that something must be seen"

    # the slow and obvious way
    model = load(trained)
    with open_video(long_video) as reader:
        frames_TCHW = reader.read(range(0, 50, 2))
    (clip_TCHW,) = TestTransform(pixel_format(model.backbone.preprocessing), "short", 1)(frames_TCHW)
    assert [window["start"] for window in line["windows"]] == pytest.approx([n / 5 for n in range(20)])
    with torch.no_grad():
        for number, window in enumerate(line["windows"]):
            expected_K = model(clip_TCHW[None, number : number + 6])[0].softmax(0)
            assert window["scores"] == pytest.approx(expected_K.tolist(), abs=1e-5)

    with outputs[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [part["label"] for part in shown["segments"]]
    assert float(rows[0]["end"]) == pytest.approx(shown["segments"][0]["end"], abs=1e-3)
    subtitles = outputs[2].read_text().split("\n\n")[:-1]
    assert len(subtitles) == len(rows)
    assert re.fullmatch(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n[a-z-]+ \(\d+ %\)", subtitles[0])


def test_the_page_asks_nobody_and_takes_names_as_text(
    trained: Path, retrieval_run: Path, long_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    sentence = 'a "red" </script><img src=x onerror=alert(1)>'
    words = ["--text", sentence, "--text", "a blue circle", "--same-pixels", "--out", out]
    first, second = predict(capsys, trained, retrieval_run, long_video, "--fps", "5", *words)
    assert (first["run"], second["run"]) == (str(trained), str(retrieval_run))
    assert {part["label"] for part in first["segments"]} <= set(CLASSES)
    assert {part["label"] for part in second["segments"]} <= {sentence, "a blue circle"}
    page = Page(out.read_text())
    addresses = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
    assert len(addresses) == 2 * 13, "a strip of pictures for each timeline"
    assert all(str(address).startswith("data:image/jpeg;base64,") for address in addresses)
    assert "url(" not in out.read_text()
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert [data["labels"] for data in page.data] == [list(CLASSES), [sentence, "a blue circle"]]
    assert len(page.data[0]["best"]) == 25
    assert sum(page.data[0]["scores"][3]) == pytest.approx(1, abs=1e-3)
    rows = [attrs for tag, attrs in page.tags if tag == "button"]
    assert len(rows) == len(first["segments"]) + len(second["segments"])


def test_a_table_for_people_and_what_could_not_be_read(
    trained: Path, long_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    words = ["predict", str(trained), str(long_video), str(broken), "--timeline", "--threshold", "1.5"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "nothing reaches the threshold" in out
    assert f"{broken}: " in err
    assert "1 of 2 videos could not be read" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--timeline", "--out", "line.txt"], "--out: must end in .csv, .json, .srt, .html; got 'line.txt'"),
        (["--timeline", "--out", "no/such/line.csv"], "--out: no such folder: 'no/such'"),
        (["--timeline", "--stride", "7"], "stride must be at most the window's 6 frames"),
        (["--timeline", "--fps", "0"], "fps must be above 0 and at most 1000; got 0.0"),
        (["--timeline", "--text", "a red square"], "--text is for retrieval runs"),
        (["--stride", "2"], "--stride is for --timeline, which is not given"),
        (["--out", "line.csv"], "--out is for --timeline, which is not given"),
    ],
)
def test_bad_options(
    trained: Path, long_video: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(trained), str(long_video), *words]) == 2
    assert message in capsys.readouterr().err


def test_subtitles_are_of_one_video(
    trained: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(trained), str(clips / "val"), "--timeline", "--out", str(tmp_path / "a.srt")]
    assert main(["predict", *words]) == 2
    assert "subtitles are of one video and one run; got 6 timelines" in capsys.readouterr().err


def test_a_retrieval_run_needs_sentences(
    retrieval_run: Path, long_video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(retrieval_run), str(long_video), "--timeline"]) == 2
    assert "say what to look for with --text" in capsys.readouterr().err
