"""The data set's health: every kind of finding on files made to have it, and nothing on files that are well."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from side4video.data.health import NOTES, PROBLEMS, HealthReport, check_health, check_video
from side4video.data.manifest import ClipRecord, Manifest


def write_video(path: Path, *, num_frames: int = 11, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(num_frames):
            frame_HWC = np.full((32, 48, 3), (shade + 7 * number) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


def manifest(records: list[ClipRecord], *names: str) -> Manifest:
    return Manifest(tuple(records), names)


def check(**splits: Manifest) -> HealthReport:
    return check_health(splits, num_frames=8, workers=1)


def kinds(report: HealthReport) -> list[tuple[str, str, str | None]]:
    return [(f.kind, f.split, Path(f.path).name if f.path else None) for f in report.findings]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a", "b", "c", "d")):
        write_video(folder / f"{name}.mp4", shade=40 * number)
    return folder


def test_good_data_has_no_finding(good: Path) -> None:
    train = manifest([ClipRecord(str(good / "a.mp4"), 0), ClipRecord(str(good / "b.mp4"), 1)], "x", "y")
    val = manifest([ClipRecord(str(good / "c.mp4"), 0), ClipRecord(str(good / "d.mp4"), 1)], "x", "y")
    seen: list[tuple[int, int]] = []
    report = check_health(
        {"train": train, "val": val}, num_frames=8, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert report.findings == ()
    assert report.num_videos == {"train": 2, "val": 2}
    assert report.num_classes == 2
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_is_wrong_with_one_video(good: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "cut.mp4").write_bytes((good / "a.mp4").read_bytes()[:600])

    def found(name: str, **kwargs: Any) -> list[tuple[str, str]]:
        record = ClipRecord(str(name if os.sep in name else tmp_path / name), 0, **kwargs)
        return [(f.kind, f.detail) for f in check_video("train", record, num_frames=8)]

    a = str(good / "a.mp4")
    assert found("gone.mp4") == [("missing", "no such file or folder")]
    assert found("empty.mp4") == [("unreadable", "empty file")]
    assert [kind for kind, _ in found("text.mp4")] == ["unreadable"]
    assert [kind for kind, _ in found("cut.mp4")] == ["unreadable"]
    assert found(a) == []
    assert found(a, num_frames=11) == []
    assert found(a, num_frames=12) == [("frame_count", "the list says 12 frames, there are 11")]
    assert found(a, start_seconds=0.0, end_seconds=0.9) == []
    assert found(a, start_seconds=0.2, end_seconds=0.5) == [("too_short", "3 frames; a clip takes 8, so some repeat")]
    assert [kind for kind, _ in found(a, start_seconds=5.0)] == ["unreadable"]


def test_reasons_do_not_repeat_the_path(good: Path) -> None:
    record = ClipRecord(str(good / "a.mp4"), 0, start_seconds=5.0)
    (finding,) = check_video("train", record, num_frames=8)
    assert str(good) not in finding.detail
    assert finding.path == str(good / "a.mp4")


def test_deep_finds_damage_between_the_three_frames_that_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 12):
        Image.new("RGB", (20, 14), (number, 2, 3)).save(folder / f"img_{number:05d}.jpg")
    # frames 1, 6 and 11 are looked at in any case
    (folder / "img_00004.jpg").write_bytes(b"no picture")
    record = ClipRecord(str(folder), 0, frame_pattern="img_{:05d}.jpg")
    assert check_video("train", record, num_frames=8) == []
    (finding,) = check_video("train", record, num_frames=8, deep=True)
    assert finding.kind == "unreadable"
    (folder / "img_00004.jpg").unlink()
    (finding,) = check_video("train", record, num_frames=8)
    assert finding.kind == "unreadable", "a hole in the numbers"


def test_labels_and_splits_are_compared(good: Path, tmp_path: Path) -> None:
    for name in ("copy_of_a.mp4", "other_label.mp4"):
        shutil.copy(good / "a.mp4", tmp_path / name)
    shutil.copy(good / "b.mp4", tmp_path / "again.mp4")
    train = manifest(
        [
            ClipRecord(str(good / "a.mp4"), 0),
            ClipRecord(str(tmp_path / "other_label.mp4"), 2),
            ClipRecord(str(good / "b.mp4"), 2),
            ClipRecord(str(tmp_path / "again.mp4"), 2),
            ClipRecord(str(good / "c.mp4"), 3, end_seconds=0.9),
        ],
        "x",
        "nobody",
        "y",
        "z",
    )
    val = manifest(
        [
            ClipRecord(str(tmp_path / "copy_of_a.mp4"), 0),
            ClipRecord(str(good / "c.mp4"), 1, start_seconds=0.1, end_seconds=1.0),
            ClipRecord(str(good / "d.mp4"), 2),
        ],
        "x",
        "z",
        "stranger",
    )
    report = check(train=train, val=val)
    assert sorted(kinds(report), key=str) == sorted(
        [
            ("label_gap", "train", None),
            ("unknown_class", "val", None),
            ("duplicate_across_splits", "val", "copy_of_a.mp4"),
            ("duplicate_across_splits", "val", "c.mp4"),
            ("contradictory_labels", "train", "other_label.mp4"),
            ("contradictory_labels", "val", "copy_of_a.mp4"),
            ("duplicate", "train", "again.mp4"),
            ("class_without_validation", "val", None),
        ],
        key=str,
    )
    details = {f.kind: f.detail for f in report.findings}
    assert details["label_gap"] == "class 1 (nobody) has no training clip"
    assert details["unknown_class"] == "class stranger has 1 validation clips and no training clip"
    assert {f.kind for f in report.problems} <= PROBLEMS.keys()
    assert {f.kind for f in report.notes} <= NOTES.keys()


def test_parts_of_one_video_that_do_not_overlap_are_a_note(good: Path) -> None:
    one = ClipRecord(str(good / "a.mp4"), 0, start_seconds=0.0, end_seconds=0.8)
    other = ClipRecord(str(good / "a.mp4"), 0, start_seconds=0.8, end_seconds=1.2)
    b = ClipRecord(str(good / "b.mp4"), 1)
    d = ClipRecord(str(good / "d.mp4"), 1)
    report = check_health(
        {"train": manifest([one, b], "x", "y"), "val": manifest([other, d], "x", "y")}, num_frames=3, workers=1
    )
    assert kinds(report) == [("shared_video", "val", "a.mp4")]
    assert report.problems == []
    within = check_health({"train": manifest([one, other, b], "x", "y")}, num_frames=3, workers=1)
    assert within.findings == ()


def test_copies_of_frame_folders_are_found(tmp_path: Path) -> None:
    for folder, shade in (("one", 10), ("two", 10), ("three", 90)):
        (tmp_path / folder).mkdir()
        for number in range(1, 10):
            Image.new("RGB", (20, 14), (number, shade, 3)).save(tmp_path / folder / f"{number:03d}.png")
    train = manifest([ClipRecord(str(tmp_path / "one"), 0), ClipRecord(str(tmp_path / "three"), 1)], "x", "y")
    val = manifest([ClipRecord(str(tmp_path / "two"), 0)], "x", "y")
    assert ("duplicate_across_splits", "val", "two") in kinds(check(train=train, val=val))


def test_imbalance_and_one_class_are_told(good: Path) -> None:
    many = [ClipRecord(str(good / "a.mp4"), 0, start_seconds=n / 100, end_seconds=1.0) for n in range(10)]
    few = [ClipRecord(str(good / "b.mp4"), 1)]
    report = check_health({"train": manifest([*many, *few], "x", "y")}, num_frames=3, workers=1)
    assert [f.detail for f in report.findings if f.kind == "imbalance"] == [
        "x has 10 clips, y has 1; look at mean_class beside top1"
    ]
    alone = check_health({"train": manifest(few, "x", "y")}, num_frames=3, workers=1)
    assert ("one_class", "train", None) in kinds(alone)


class Deadly:
    """A path that ends the process which looks at it, as a decoder's crash would."""

    def __str__(self) -> str:
        if multiprocessing.parent_process() is not None:
            os._exit(11)
        return "deadly.mp4"

    def __fspath__(self) -> str:
        return str(self)


def test_a_file_that_kills_its_process_is_named_and_the_others_go_on(good: Path) -> None:
    paths = [good / "a.mp4", cast(Path, Deadly()), good / "b.mp4", good / "c.mp4", good / "gone.mp4"]
    records = [ClipRecord(cast(str, path), number % 2) for number, path in enumerate(paths)]
    records = [r if isinstance(r.path, Deadly) else ClipRecord(str(r.path), r.label) for r in records]
    report = check_health({"train": manifest(records, "x", "y")}, num_frames=8, workers=2)
    assert kinds(report) == [("missing", "train", "gone.mp4"), ("unreadable", "train", "deadly.mp4")]
    assert report.problems[1].detail == "crashes the decoder"
