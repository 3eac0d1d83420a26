"""`side4video prepare`: what is there, what is missing or broken, resized clips, lists, and going on after a stop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest

from run.published import DRAW, SOMETHING, draw_ssv2
from run.small_runs import draw_clip
from side4video.cli.main import main
from side4video.data.decode import open_video
from side4video.data.manifest import read_manifest
from side4video.errors import VideoError
from side4video.prepare import work
from side4video.prepare.resize import Form, scaled_size, write_clip
from side4video.prepare.sources import find_source

ONE = ("--workers", "1")


def prepare(*words: str | Path) -> int:
    return main(["prepare", *map(str, words), *ONE])


def contents(folder: Path) -> dict[str, str]:
    """Every file and its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("dataset", "to"), [("ssv2", "videos"), ("ssv1", "frames"), ("k400", "videos")])
def test_a_published_layout_becomes_clips_and_lists(
    dataset: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    ids = DRAW[dataset](src)
    before = contents(src)
    assert prepare(dataset, src, dst, "--size", "48", "--to", to, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert contents(src) == before, "nothing in SRC is changed"
    assert (done["ok"], done["missing"], done["broken"], done["written"]) == (True, [], [], 15)
    assert done["splits"]["train"] == {"listed": 12, "missing": 0, "broken": 0, "ready": 12}
    published = {"ssv2": 220_847, "ssv1": 108_499}.get(dataset)
    assert done["published_videos"] == published
    assert any(f"published are {published or 0:,}" in text for text in done["notes"]) == (published is not None)
    lines = (dst / "train.txt").read_text().splitlines() + (dst / "val.txt").read_text().splitlines()
    suffix = ".mp4" if to == "videos" else ""
    assert [line.split()[0] for line in lines] == [f"{to}/{name}{suffix}" for name in ids]
    manifest = read_manifest(dst / "train.txt", classes=dst / "classes.csv")
    assert len(manifest) == 12
    assert manifest.num_classes == (400 if dataset == "k400" else 174)
    names = {manifest.class_names[record.label] for record in manifest.records}
    drawn = {"abseiling", "playing cards", "zumba"}
    assert names == (drawn if dataset == "k400" else {t.replace("[", "").replace("]", "") for _, t, _ in SOMETHING})
    pairs = {
        "ssv1": ("20bn-something-something-v1/1003", "frames/1003"),
        "ssv2": ("20bn-something-something-v2/1003.webm", "videos/1003.mp4"),
        "k400": (f"{ids[3]}.mp4", f"videos/{ids[3]}.mp4"),
    }
    first, second = pairs[dataset]
    with open_video(src / first) as original, open_video(dst / second) as reader:
        assert reader.info.num_frames == original.info.num_frames
        assert (reader.info.width, reader.info.height) == (60, 48)
    if dataset == "ssv1":
        assert (dst / "frames" / "1003" / "00001.jpg").is_file()
        assert lines[0].split()[1] == "9"


def test_pictures_and_times_stay_what_they_are(tmp_path: Path) -> None:
    source = draw_clip(tmp_path / "clip.mkv", "slide-right", seed=3, num_frames=29)
    write_clip(source, tmp_path / "new.mp4", Form(size=32, gop=7, crf=10))
    write_clip(source, tmp_path / "same.mp4", Form(size=999))
    with open_video(source) as old, open_video(tmp_path / "new.mp4") as new, open_video(tmp_path / "same.mp4") as same:
        assert (new.info.width, new.info.height, new.info.codec) == (40, 32, "h264")
        assert (same.info.width, same.info.height) == (old.info.width, old.info.height), "never scaled up"
        np.testing.assert_allclose(new.timestamps_seconds, old.timestamps_seconds, atol=1e-3)
        before = old.read(range(29)).float().unflatten(2, (32, 2)).unflatten(4, (40, 2)).mean((3, 5))
        error = (before - new.read(range(29)).float()).abs().mean((1, 2, 3))
        assert error.max() < 6
        assert (before - new.read([*range(1, 29), 0]).float()).abs().mean() > 2 * error.mean(), "in order"
    with av.open(str(tmp_path / "new.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert max(np.diff([*keys, 29])) <= 7
    times = [packet.pts for packet in packets]
    assert times == sorted(times), "no B-frames: with them x264 is not the same twice on small pictures"


@pytest.mark.parametrize(
    ("size", "even", "expected"),
    [((455, 256), True, (228, 128)), ((256, 455), False, (128, 228)), ((99, 41), True, (98, 40))],
)
def test_short_side(size: tuple[int, int], even: bool, expected: tuple[int, int]) -> None:
    assert scaled_size(*size, 128, even=even) == expected


def test_missing_and_broken_clips_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    ids = draw_ssv2(src)
    videos = src / "20bn-something-something-v2"
    (videos / f"{ids[1]}.webm").unlink()
    (videos / f"{ids[4]}.webm").write_bytes(b"no video")
    whole = (videos / f"{ids[14]}.webm").read_bytes()
    (videos / f"{ids[14]}.webm").write_bytes(whole[: len(whole) * 2 // 3])
    assert prepare("ssv2", src, "--check", "--json") == 1
    checked = json.loads(capsys.readouterr().out)
    assert not dst.exists()
    assert prepare("ssv2", src, dst, "--json") == 1
    done = json.loads(capsys.readouterr().out)
    for result in (checked, done):
        assert result["missing"] == [ids[1]]
        assert {problem["clip"] for problem in result["broken"]} == {ids[4], ids[14]}
    assert done["splits"]["train"] == {"listed": 12, "missing": 1, "broken": 1, "ready": 10}
    assert len((dst / "train.txt").read_text().splitlines()) == 10
    assert not list(dst.rglob("*.partial"))
    problems = (dst / "problems.txt").read_text().splitlines()
    assert problems[0] == f"train\t{ids[1]}\tmissing\t"
    assert len(problems) == 3
    # mended: only those are made
    draw_clip(videos / "x.mkv", "grow", seed=1).rename(videos / f"{ids[1]}.webm")
    for broken in (ids[4], ids[14]):
        draw_clip(videos / "x.mkv", "grow", seed=2).rename(videos / f"{broken}.webm")
    kept = contents(dst / "videos")
    assert prepare("ssv2", src, dst, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["written"], again["ok"]) == (3, True)
    now = contents(dst / "videos")
    assert {name: now[name] for name in kept} == kept
    assert not (dst / "problems.txt").exists()


def test_killed_at_any_moment_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst, straight = tmp_path / "src", tmp_path / "dst", tmp_path / "straight"
    ids = draw_ssv2(src)
    child = os.fork()  # everything is imported already
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(prepare("ssv2", src, dst))
    deadline = time.monotonic() + 100
    while len(list(dst.glob("videos/*.mp4"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it was killed in the middle"
    there = {path.name for path in dst.glob("videos/*.mp4")}
    assert 3 <= len(there) < len(ids)
    assert not (dst / "train.txt").exists()
    with (dst / "prepared.jsonl").open("a") as journal:
        journal.write('{"clip": "videos/10')  # a torn line
    (dst / "videos" / f"{ids[14]}.mp4.partial").write_bytes(b"half")
    assert prepare("ssv2", src, dst, "--json") == 0
    assert json.loads(capsys.readouterr().out)["written"] == len(ids) - len(there)
    assert prepare("ssv2", src, straight) == 0
    assert {path.name for path in dst.rglob("*")} == {path.name for path in straight.rglob("*")}
    for name in ("train.txt", "val.txt", "classes.csv", "prepare.json"):
        assert (dst / name).read_bytes() == (straight / name).read_bytes()
    for path in straight.glob("videos/*.mp4"):
        assert path.read_bytes() == (dst / "videos" / path.name).read_bytes()
        with open_video(path) as one:
            assert one.info.num_frames == 11


def test_a_full_disk_stops_it_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    draw_ssv2(src)
    written: list[Path] = []

    def full_after_two(path: Path, content: bytes) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        path.write_bytes(content)

    monkeypatch.setattr("side4video.prepare.resize.write_bytes", full_after_two)
    assert prepare("ssv2", src, dst) == 2
    message = capsys.readouterr().err
    assert "1002.mp4: the disk is full" in message
    assert "Traceback" not in message
    monkeypatch.undo()
    assert prepare("ssv2", src, dst, "--json") == 0
    assert json.loads(capsys.readouterr().out)["written"] == 13


def test_bad_words_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, used, empty = tmp_path / "src", tmp_path / "used", tmp_path / "empty"
    draw_ssv2(src)
    used.mkdir()
    (used / "mine.txt").write_text("x")
    empty.mkdir()
    unlabelled = tmp_path / "unlabelled"
    (unlabelled / "labels").mkdir(parents=True)
    (unlabelled / "labels" / "train.json").write_text('[{"id": "1", "template": "Doing [something]"}]')
    (unlabelled / "labels" / "validation.json").write_text("[]")
    (unlabelled / "labels" / "labels.json").write_text('{"Other": "0"}')
    dst = tmp_path / "dst"
    cases = [
        (["ssv2", src], "DST is missing"),
        (["ssv3", src, dst], "unknown data set 'ssv3'; did you mean 'ssv2'"),
        (["ssv2", tmp_path / "none", dst], "SRC"),
        (["ssv2", empty, dst], "holds no something-something-v2-train.json (or train.json)"),
        (["ssv1", src, dst], "holds no something-something-v1-train.csv"),
        (["k400", empty, dst], "holds no train.csv"),
        (["msrvtt", empty, dst], "holds no MSRVTT_data.json"),
        (["folder", empty, dst], "has no class folders"),
        (["ssv2", unlabelled, dst], "its class 'Doing something' is not in"),
        (["ssv2", src, src], "in which nothing is changed"),
        (["ssv2", src, src / "new"], "in which nothing is changed"),
        (["ssv2", src, used], "is not empty"),
        (["ssv2", src, used / "mine.txt"], "is a file"),
        (["ssv2", src, dst, "--size", "4"], "--size: must be at least 16; got 4"),
        (["ssv2", src, dst, "--quality", "52"], "--quality: must be 0 to 51; got 52"),
        (["ssv2", src, dst, "--to", "gifs"], "--to: must be videos or frames"),
    ]
    for words, message in cases:
        assert prepare(*words) == 2, words
        assert message in capsys.readouterr().err, words
    assert not dst.exists()
    assert [path.name for path in used.iterdir()] == ["mine.txt"]


def test_another_form_or_a_second_call_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    for name in ("grow", "slide-left"):
        draw_clip(src / name / "a.mp4", name, seed=1)
    draw_clip(src / "grow" / "a.avi", "grow", seed=2)
    assert prepare("folder", src, dst, "--size", "32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["ready"] == 3
    assert prepare("folder", src, dst, "--size", "48") == 2
    assert "was prepared with size=32 (now 48)" in capsys.readouterr().err
    manifest = read_manifest(dst / "train.csv")
    assert sorted(Path(record.path).name for record in manifest.records) == ["a-mp4.mp4", "a.mp4", "a.mp4"]
    with work._locked(dst):
        assert prepare("folder", src, dst, "--size", "32") == 2
    assert "another `side4video prepare` is at work" in capsys.readouterr().err


def test_a_source_that_cannot_be_read_is_not_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00001.jpg").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"00001.jpg is not a readable picture"):
        write_clip(tmp_path / "a", tmp_path / "b", Form(to="frames"))
    assert not (tmp_path / "b").exists()


def test_test_answers_make_a_labelled_split(tmp_path: Path) -> None:
    draw_ssv2(tmp_path)
    assert [clip.label for clip in find_source("ssv2", tmp_path).clips if clip.split == "test"] == [None]
    (tmp_path / "labels" / "test-answers.csv").write_text("7;Zooming into something\n")
    assert [clip.label for clip in find_source("ssv2", tmp_path).clips if clip.split == "test"] == [173]
