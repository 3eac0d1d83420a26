"""What the fuzz campaign found stays found: each is an error that names the file, or is read as it should be."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from assets import make_assets
from assets.make_assets import read_number, remux
from side4video.backbones.weights import read_weights
from side4video.cache.record import is_record
from side4video.config.load import load_settings
from side4video.data import limits
from side4video.data.captions import read_captions
from side4video.data.decode import VideoReader, open_video
from side4video.data.manifest import read_manifest
from side4video.data.packets import demux
from side4video.data.sequence import FrameSequence
from side4video.errors import CheckpointError, ConfigError, DataError, VideoError
from side4video.official.read import open_checkpoint


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("videos")
    known = make_assets.GENERATED / f"v{make_assets.VERSION}-av{av.__version__}"

    def path(name: str) -> Path:
        if (known / name).is_file():
            return known / name
        if not (folder / name).exists():
            with make_assets.quiet():
                make_assets.encode(folder / name, make_assets.BY_NAME[name])
        return folder / name

    return path


def pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((24, 32, 3), 40 * number, np.uint8)).save(folder / f"img_{number + 1:05d}.png")
    return folder


def test_names_and_contents_of_others_reach_no_terminal(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[31m\u202e.mp4"
    path.write_bytes(b"x" * 100)
    with pytest.raises(VideoError, match=r"two\\nlines\\x1b\[31m\\u202e\.mp4': damaged") as caught:
        VideoReader(path)
    assert str(caught.value).isprintable()
    assert (caught.value.path, caught.value.reason) == (str(path), "damaged, truncated or not a video")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, str(again)) == (str(path), str(caught.value))
    assert str(DataError("a\x1b[2Jb\u200bc\nd")) == "a\\x1b[2Jb\\u200bc\nd"


@pytest.mark.parametrize("odd", ["pipe", "device", "folder"])
def test_only_regular_files_are_pictures(tmp_path: Path, odd: str) -> None:
    frames = pictures(tmp_path / "frames")
    first = frames / "img_00001.png"
    first.unlink()
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[odd](first)
    with pytest.raises(VideoError, match=r"img_00001\.png is not a regular file"):
        open_video(frames)


def test_limits_come_from_the_environment_and_hold_for_pictures_and_videos(
    tmp_path: Path, video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = pictures(tmp_path / "frames")
    assert limits.video_limits() == limits.VideoLimits(8192 * 4320, 16384, 2_500_000)
    monkeypatch.setenv("SIDE4VIDEO_MAX_FRAME_PIXELS", str(24 * 32 - 1))
    with pytest.raises(VideoError, match=r"img_00001\.png: frames of 32x24 are larger than allowed .*767 pixels"):
        open_video(frames)
    with pytest.raises(VideoError, match="frames of 96x72 are larger than allowed"):
        next(iter(FrameSequence(video("h264.mp4"))))
    monkeypatch.setenv("SIDE4VIDEO_MAX_FRAME_PIXELS", "10000")
    monkeypatch.setenv("SIDE4VIDEO_MAX_FRAMES", "29")
    assert open_video(frames).info.num_frames == 3
    with pytest.raises(VideoError, match="more than 29 frames; SIDE4VIDEO_MAX_FRAMES allows more"):
        VideoReader(video("h264.mp4"))
    for text in ("0", "-1", "many", "", "\u0661"):
        monkeypatch.setenv("SIDE4VIDEO_MAX_FRAME_SIDE", text)
        with pytest.raises(ConfigError, match="SIDE4VIDEO_MAX_FRAME_SIDE must be a whole number from 1"):
            limits.video_limits()


def test_a_stream_that_begins_in_the_middle() -> None:
    def packets(_: object) -> Any:
        yield from ()
        raise IndexError("list index out of range")

    stream = SimpleNamespace(codec_context=SimpleNamespace(codec=SimpleNamespace(canonical_name="h264")))
    with pytest.raises(VideoError, match=r"v\.ts: damaged: a stream begins in the middle of it"):
        list(demux(SimpleNamespace(demux=packets), stream, "v.ts"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["h264.ts", "hevc.ts", "mpeg2.ts"])
def test_a_gap_in_a_transport_stream_is_damage(video: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    data = video(name).read_bytes()
    refused = wrong = 0
    for number in range(20, len(data) // 188 - 20, 9):
        if int.from_bytes(data[188 * number + 1 : 188 * number + 3], "big") & 0x1FFF != 256:
            continue
        path = tmp_path / name
        path.write_bytes(data[: 188 * number] + data[188 * number + 188 :])
        with VideoReader(path) as reader:
            for frame in range(0, reader.info.num_frames, 2):
                try:
                    read_number(reader.read([frame])[0].numpy())
                except VideoError as error:
                    refused += "damaged" in error.reason or "cannot be decoded" in error.reason
                except ValueError:
                    wrong += 1
        try:
            list(FrameSequence(path))
        except VideoError:
            refused += 1
    assert refused > 5
    # what stays: a gap before a key frame, which looks like two recordings that were joined
    assert wrong <= refused / 4


def test_times_that_contradict_the_order_of_the_pictures(video: Callable[[str], Path], tmp_path: Path) -> None:
    # the times of two pictures exchanged, of which each is needed by others
    with av.open(str(video("h264.mkv"))) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]

    def exchanged(ordinal: int, packet: av.Packet) -> bool:
        packet.pts = times[{1: 4, 4: 1}.get(ordinal, ordinal)]
        return True

    remux(video("h264.mkv"), tmp_path / "v.mkv", exchanged)
    with (
        VideoReader(tmp_path / "v.mkv") as reader,
        pytest.raises(VideoError, match="its times contradict the order that its pictures are shown in"),
    ):
        reader.read(range(12))


@pytest.mark.parametrize(
    "text",
    ["a: !!timestamp 'x'", "a: !!int 'x'", "a: !!float 'x'", "a: !!bool 'x'", "? [a]\n: b", "!!python/name:os.system"],
)
def test_odd_yaml_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        load_settings(path)


@pytest.mark.parametrize("read", [open_checkpoint, read_weights])
def test_hostile_checkpoints(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(2, 3)}, path)
    read(path)
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}

    def write(change: Callable[[bytes], bytes], packing: int = zipfile.ZIP_STORED) -> None:
        with zipfile.ZipFile(path, "w", packing) as new:
            for name, content in parts.items():
                new.writestr(name, change(content) if name.endswith("data.pkl") else content)

    write(bytes, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"model\.pt.*is compressed, which no weights file is"):
        read(path)
    write(lambda content: b"\x80\x02h\x74.")  # a value that was never numbered
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        read(path)
    torch.save({"w": SimpleNamespace(a=1)}, path)
    with pytest.raises(
        CheckpointError, match="it is damaged, or holds more than tensors and plain containers"
    ) as caught:
        read(path)
    assert "weights_only" not in str(caught.value)


def test_tables_with_odd_headers_and_numbers(tmp_path: Path) -> None:
    captions = tmp_path / "captions.csv"
    captions.write_text('video,caption\r"a\nb.mp4,c\n')
    with pytest.raises(DataError, match=r"captions\.csv', line 1"):
        read_captions(captions)
    clips = tmp_path / "clips.csv"
    clips.write_text(f"path,label,num_frames\na.mp4,run,{'9' * 400}\nb.mp4,walk,3\n")
    with pytest.raises(DataError, match=r"clips\.csv', line 2: num_frames must be a whole number from 1"):
        read_manifest(clips)
    long = "x" * 300
    kinetics = tmp_path / "train.csv"
    kinetics.write_text(f"label,youtube_id,time_start,time_end,split\n{long},id1,0,10,train\nski,id2,0,10,train\n")
    assert len(read_manifest(kinetics)) == 2


GOOD = {"path": "v.mp4", "labels": [1], "masks": [[1, 0]], "channels_last": True, "tensors": ["a"], "crc32": 5}
RECORD = {"bytes": 3, "sha256": "0", "squares": [0.0, 1.0], "items": {"4": {**GOOD, "video_bytes": None}}}


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": "3"}, {"sha256": None}, {"squares": [1.0]}, {"items": []}, {"items": {"5": RECORD["items"]["4"]}},
        {"items": {"4": {}}}, {"items": {"4": {**GOOD, "video_bytes": "1"}}}, {"items": {"4": GOOD}},
        {"items": {"4": {**GOOD, "video_bytes": 1, "labels": ["1"]}}},
        {"items": {"4": {**GOOD, "video_bytes": 1, "crc32": 1.5}}},
        {"items": {"4": {"path": "v", "video_bytes": 1, "broken": 3}}},
    ],
)  # fmt: skip
def test_damaged_records_of_a_cache_are_told(change: dict[str, Any]) -> None:
    assert is_record(RECORD, range(4, 5))
    assert is_record({**RECORD, "items": {"4": {"path": "v", "video_bytes": 1, "broken": "gone"}}}, range(4, 5))
    assert not is_record({**RECORD, **change}, range(4, 5))
