"""`side4video watch` on a file, a pipe, a network stream that breaks and comes back, and with a model that is slow."""

from __future__ import annotations

import _thread
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from run.rtsp_camera import RtspServer, start_camera
from run.small_runs import CLASSES, draw_clip
from side4video import load
from side4video.build import pixel_format
from side4video.cli.main import main
from side4video.data.decode import open_video
from side4video.data.transforms import TestTransform
from side4video.streaming import feed
from side4video.streaming.scorers import ClassScorer
from unit.streaming.test_sources import Stdin

NUM_FRAMES = 6


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 10 frames a second."""
    return draw_clip(tmp_path_factory.mktemp("watch") / "recording.mkv", "grow", seed=3, num_frames=20)


def watch(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[list[dict[str, Any]], str]:
    """The lines of a call, and what it said beside them."""
    capsys.readouterr()
    assert main(["watch", *map(str, words)]) == code
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


class Server:
    """Serves a video to one after the other, each time only so many bytes of it; then nobody is there."""

    def __init__(self, content: bytes, shares: list[float]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._content, self._shares = content, shares
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for share in self._shares:
            connection, _ = self._socket.accept()
            with connection:
                connection.sendall(self._content[: int(share * len(self._content))])
        self._socket.close()


def test_every_frame_of_a_file(trained: Path, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, err = watch(capsys, trained, recording, "--fps", "5", "--stride", "2", "--top-k", "9")
    assert [line["seconds"] for line in lines] == pytest.approx([1.0, 1.4, 1.8])
    assert all(line["dropped"] == 0 for line in lines)
    assert f"watching {recording}; Ctrl-C ends it" in err
    assert "10 frames, 0 of them dropped" in err
    model = load(trained)
    with open_video(recording) as reader:
        frames_TCHW = reader.read(range(0, 20, 2))
    (clip_TCHW,) = TestTransform(pixel_format(model.backbone.preprocessing), "short", 1)(frames_TCHW)
    with torch.no_grad():
        for number, line in enumerate(lines):
            expected_K = model(clip_TCHW[None, 2 * number : 2 * number + NUM_FRAMES])[0].softmax(0).tolist()
            scores = {item["label"]: item["score"] for item in line["predictions"]}
            assert [scores[name] for name in CLASSES] == pytest.approx(expected_K, abs=1e-5)
            assert line["time"].endswith("Z")
            assert line["latency_seconds"] >= 0


def test_a_video_that_is_shorter_than_a_window_says_so(
    trained: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, err = watch(capsys, trained, recording, "--fps", "2")
    assert lines == []
    assert "4 frames, 0 of them dropped" in err
    assert f"no window was full: one is {NUM_FRAMES} frames, 3 s at --fps 2" in err
    assert "no window" not in watch(capsys, trained, recording, "--fps", "5")[1]


def test_a_pipe_and_one_json_value(
    trained: Path, recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.write(writing, recording.read_bytes())
    os.close(writing)
    monkeypatch.setattr(sys, "stdin", Stdin(reading))
    capsys.readouterr()
    assert main(["watch", str(trained), "-", "--fps", "5", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == {"frames": 10, "dropped": 0, "reconnects": 0, "predictions": 10 - NUM_FRAMES + 1}


def test_a_slow_model_drops_frames_and_stays_near(
    trained: Path, recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = ClassScorer.scores

    def slow(self: ClassScorer, windows: Any) -> Any:
        time.sleep(0.45)
        return scores(self, windows)

    monkeypatch.setattr(ClassScorer, "scores", slow)
    words = [trained, recording, "--live", "--fps", "10", "--max-latency", "0.2"]
    lines, err = watch(capsys, *words)
    assert 1 <= len(lines) < 20 - NUM_FRAMES
    dropped = [line["dropped"] for line in lines]
    assert dropped == sorted(dropped)
    assert dropped[-1] >= 3
    assert f"20 frames, {dropped[-1]} of them dropped" in err
    # it waited 0.2 seconds at most before the model took it, and the model takes 0.45
    assert all(line["latency_seconds"] < 0.2 + 3 * 0.45 for line in lines)


def test_a_stream_that_breaks_and_comes_back(
    trained: Path, recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed.LiveFeed.__init__, "__kwdefaults__", {
        **feed.LiveFeed.__init__.__kwdefaults__, "first_pause_seconds": 0.05,
    })  # fmt: skip
    server = Server(recording.read_bytes(), [0.9, 1.0])
    words = [trained, f"tcp://127.0.0.1:{server.port}", "--fps", "10", "--give-up", "0.3", "--max-latency", "9"]
    lines, err = watch(capsys, *words, code=2)
    first, second, *_ = [place for place, line in enumerate(lines) if "event" in line]
    assert lines[first] == {"event": "reconnecting", "reason": "it ended", "in_seconds": 0.05, "dropped": 0}
    before, after = lines[:first], lines[first + 1 : second]
    assert before, "windows of the first connection"
    assert len(after) == 20 - NUM_FRAMES + 1, "all windows of the second one, and none over both"
    assert after[0]["seconds"] == pytest.approx(0.5)
    assert f"tcp://127.0.0.1:{server.port}: " in err
    assert "no frame for" in err


def test_a_recording_behind_an_address_is_read_once(
    trained: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(recording.read_bytes(), [1.0])
    lines, err = watch(capsys, trained, f"tcp://127.0.0.1:{server.port}", "--once", "--fps", "10")
    assert len(lines) == 20 - NUM_FRAMES + 1
    assert "20 frames, 0 of them dropped" in err


def test_interrupt_ends_it_with_130(
    trained: Path, recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = ClassScorer.scores

    def interrupted(self: ClassScorer, windows: Any) -> Any:
        _thread.interrupt_main()
        return scores(self, windows)

    monkeypatch.setattr(ClassScorer, "scores", interrupted)
    # a suite that a shell runs in the background inherits that Ctrl-C is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        lines, err = watch(capsys, trained, recording, "--fps", "5", code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert lines == []
    assert "stopped; " in err
    assert "frames, 0 of them dropped" in err
    assert not [thread for thread in threading.enumerate() if thread.name == "live feed"]


def test_several_runs_name_themselves(
    trained: Path, retrieval_run: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [trained, retrieval_run, recording, "--fps", "5", "--text", "a red square"]
    lines, _ = watch(capsys, *words)
    assert {line["run"] for line in lines} == {str(trained), str(retrieval_run)}
    (label,) = {line["predictions"][0]["label"] for line in lines if line["run"] == str(retrieval_run)}
    assert label == "a red square"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a run folder and then a source"),
        (["63"], "camera 63: no such camera (/dev/video63 is not there)"),
        (["no.mp4"], "no such source: 'no.mp4'"),
        (["tcp://127.0.0.1:9"], "tcp://127.0.0.1:9: cannot be opened"),
        (["0", "--fps", "0"], "--fps: must be above 0 and at most 1000; got 0.0"),
        (["0", "--stride", "0"], "--stride: must be at least 1; got 0"),
        (["0", "--max-latency", "0"], "--max-latency: must be above 0 seconds; got 0.0"),
        (["0", "--give-up", "-1"], "--give-up: must be above 0 seconds; got -1.0"),
        (["0", "--live", "--once"], "--live and --once exclude each other"),
    ],
)
def test_bad_words(trained: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = watch(capsys, trained, *words, code=2)
    assert message in err
    assert "Traceback" not in err


def test_a_camera_with_rtsp_that_loses_its_viewers(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = draw_clip(tmp_path / "camera.mp4", "grow", seed=5, num_frames=12)
    server = RtspServer()
    camera = start_camera(recording, server.address, fps=25)
    deadline = time.monotonic() + 60
    while "RECORD" not in server.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    monkeypatch.setattr(feed.LiveFeed.__init__, "__kwdefaults__", {
        **feed.LiveFeed.__init__.__kwdefaults__, "first_pause_seconds": 0.05,
    })  # fmt: skip
    scores, seen, cuts = ClassScorer.scores, [], []

    def counted(self: ClassScorer, windows: Any) -> Any:
        seen.append(len(windows.starts))
        if sum(seen) >= 5 and not cuts:
            cuts.append(server.cut())
            seen.clear()
        elif sum(seen) >= 5:
            # the camera goes away for good
            server.close()
        return scores(self, windows)

    monkeypatch.setattr(ClassScorer, "scores", counted)
    try:
        address = server.address.replace("rtsp://", "rtsp://user:secret@")
        lines, err = watch(capsys, trained, address, "--fps", "25", "--give-up", "1", "--max-latency", "9", code=2)
    finally:
        server.close()
        camera.kill()
        camera.wait()
    assert cuts == [1], "one viewer was cut off"
    assert server.requests.count("PLAY") == 2, "and came again"
    events = [place for place, line in enumerate(lines) if "event" in line]
    assert lines[events[0]]["event"] == "reconnecting"
    before, after = lines[: events[0]], [line for line in lines[events[0] :] if "event" not in line]
    assert len(before) >= 5
    assert len(after) >= 5
    for line in (*before, *after):
        assert sum(item["score"] for item in line["predictions"]) == pytest.approx(1, abs=1e-4)
    assert "secret" not in err
    assert "no frame for" in err
