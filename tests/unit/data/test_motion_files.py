"""Clips become H.264 files in class folders, the same whatever the number of processes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from side4video.data.motion_files import encode_clip, write_motion_clips
from side4video.data.motions import draw_motion, motion_classes


def test_the_folder_holds_every_class_and_its_captions(tmp_path: Path) -> None:
    drawn = write_motion_clips(tmp_path, seed=4, train_per_class=2, val_per_class=1, processes=1)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4")}
    assert files == {clip.video for clip in drawn}
    assert Counter(Path(name).parts[:2] for name in files) == {
        (split, name): count for split, count in (("train", 2), ("val", 1)) for name in motion_classes()
    }
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [(line["video"], line["caption"], line["class"], line["split"]) for line in lines] == [
        (clip.video, clip.caption, clip.class_name, clip.split) for clip in drawn
    ]
    train, val = ({c.caption for c in drawn if c.split == split} for split in ("train", "val"))
    assert not train & val


def test_some_classes_are_the_same_clips(tmp_path: Path) -> None:
    sizes = {"seed": 2, "train_per_class": 1, "val_per_class": 1, "processes": 1}
    write_motion_clips(tmp_path / "all", **sizes)
    drawn = write_motion_clips(tmp_path / "some", classes=["vanish", "grow"], **sizes)
    assert [clip.class_name for clip in drawn] == ["vanish", "grow"] * 2
    files = sorted((tmp_path / "some").rglob("*.mp4"))
    assert len(files) == 4
    for path in files:
        assert path.read_bytes() == (tmp_path / "all" / path.relative_to(tmp_path / "some")).read_bytes()
    with pytest.raises(ValueError, match=r"classes must be among move-left, .*; got juggle"):
        write_motion_clips(tmp_path / "none", classes=["grow", "juggle"], **sizes)


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        write_motion_clips(tmp_path / name, seed=1, train_per_class=1, val_per_class=1, processes=processes)
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_a_file_is_h264_and_looks_like_the_clip(tmp_path: Path) -> None:
    clip = draw_motion("grow", np.random.default_rng(8))
    encode_clip(clip, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == clip.frame_rate
        frames_THWC = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert frames_THWC.shape == clip.frames_THWC.shape
    error = np.abs(frames_THWC.astype(float) - clip.frames_THWC).mean(axis=(1, 2, 3))
    assert error.max() < 8


def test_no_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val_per_class must be at least 1; got 0"):
        write_motion_clips(tmp_path, seed=0, train_per_class=1, val_per_class=0)
