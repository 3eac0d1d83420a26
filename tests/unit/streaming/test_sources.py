"""Where frames come from: words to sources, and frames out of each kind."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
import torch

from side4video.data.decode import open_video
from side4video.data.motions import draw_motion
from side4video.errors import ConfigError, VideoError
from side4video.streaming.sources import LiveFrame, Source, parse_source, read_frames


class Stdin:
    """Standard input that is a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


def read(word: str, *, fps: float = 5, stop: threading.Event | None = None) -> list[LiveFrame]:
    return list(read_frames(parse_source(word), fps=fps, stop=stop or threading.Event()))


def check(found: list[LiveFrame], video: Path) -> None:
    """Every second frame of the video, at its time."""
    with open_video(video) as reader:
        expected_TCHW = reader.read(range(0, 41, 2))
    assert [frame.seconds for frame in found] == pytest.approx([number / 5 for number in range(21)], abs=2e-3)
    assert torch.equal(torch.stack([frame.pixels_CHW for frame in found]), expected_TCHW)


def through_pipe(content: bytes, monkeypatch: pytest.MonkeyPatch) -> threading.Thread:
    """Standard input gives this content and ends."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    monkeypatch.setattr(sys, "stdin", Stdin(reading))
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("-", Source("pipe", "-", "standard input")),
        ("2", Source("camera", "/dev/video2", "camera 2")),
        ("/dev/video1", Source("camera", "/dev/video1", "camera /dev/video1")),
        (
            "rtsp://user:secret@host:554/a/b?token=x",
            Source("address", "rtsp://user:secret@host:554/a/b?token=x", "rtsp://host:554/a/b"),
        ),
    ],
)
def test_words(word: str, expected: Source) -> None:
    assert parse_source(word) == expected
    assert expected.is_live == (expected.kind in ("camera", "address"))


def test_words_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must begin with rtsp, .*; got 'file://'"):
        parse_source("file:///etc/passwd")
    with pytest.raises(ConfigError, match=r"no such source: '.*no\.mp4'"):
        parse_source(str(tmp_path / "no.mp4"))


def test_a_file(video: Path) -> None:
    check(read(str(video)), video)


def test_a_pipe(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tmp_path / "stream.mkv"
    with av.open(str(video)) as source, av.open(str(stream), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    thread = through_pipe(stream.read_bytes(), monkeypatch)
    check(read("-"), video)
    thread.join(5)
    through_pipe(b"no video at all" * 100, monkeypatch)
    with pytest.raises(VideoError, match="standard input: damaged, truncated or not a video"):
        read("-")


@pytest.mark.parametrize("jump_seconds", [-0.6, 1000.0])
def test_a_clock_that_jumps_is_carried_on(jump_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[bytes] = []
    for begin in (10.0, 10.8 + jump_seconds):
        path = tmp_path / "part.ts"
        with av.open(str(path), "w", options={"muxdelay": "0"}) as container:
            stream = container.add_stream("mpeg2video", rate=5)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 1
            for number in range(4):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 50 * number, np.uint8), format="rgb24")
                frame.pts, frame.time_base = round(90_000 * (begin + number / 5)), Fraction(1, 90_000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        parts.append(path.read_bytes())
    thread = through_pipe(b"".join(parts), monkeypatch)
    found = read("-")
    thread.join(5)
    assert [frame.seconds for frame in found] == pytest.approx([number / 5 for number in range(8)], abs=2e-2)


def test_damaged_pictures_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames_THWC = draw_motion("move-left", np.random.default_rng(1)).frames_THWC
    path = tmp_path / "camera.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"g": "12", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames_THWC.shape[1:3], "yuv420p"
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    content, packet = bytearray(path.read_bytes()), 188
    for seed in range(20):  # until a picture is decoded and flagged, which is not so wherever damage falls
        draw, damaged = np.random.default_rng(seed), bytearray(content)
        place = packet * int(draw.integers(len(content) // packet // 4, 3 * len(content) // packet // 4))
        damaged[place + 40 : place + 180] = draw.bytes(140)
        with av.open(io.BytesIO(bytes(damaged))) as container:
            corrupt: list[bool] = []
            for one in container.demux(video=0):
                with contextlib.suppress(av.error.InvalidDataError):
                    corrupt += [frame.is_corrupt for frame in one.decode()]
        if any(corrupt):
            break
    else:
        pytest.fail("no damage that the decoder flags")
    thread = through_pipe(bytes(damaged), monkeypatch)
    assert len(read("-")) == corrupt.count(False) < len(frames_THWC)
    thread.join(5)


def test_a_pipe_that_is_silent_hears_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", Stdin(reading))
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(VideoError, match="standard input: "):
        read("-", stop=stop)
    os.close(writing)
    os.close(reading)


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(VideoError, match=r"camera 63: no such camera \(/dev/video63 is not there\)"):
        read("63")


def test_a_camera_is_asked_as_one(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def stand_in(address: str, mode: Any, **options: Any) -> Any:
        asked.append({"address": address, **options})
        return opened(str(video), mode)

    opened = av.open
    monkeypatch.setattr(av, "open", stand_in)
    camera = tmp_path / "video0"
    camera.touch()
    found = list(read_frames(Source("camera", str(camera), "camera 0"), fps=5, stop=threading.Event()))
    check(found, video)
    assert (asked[0]["address"], asked[0]["format"]) == (str(camera), "v4l2")


def test_a_refused_connection_hides_the_password() -> None:
    with pytest.raises(VideoError, match=r"^tcp://127\.0\.0\.1:9: cannot be opened") as caught:
        read("tcp://user:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)
