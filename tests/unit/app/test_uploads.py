"""Uploads: what is taken, what is refused and how early, whose they are, and that nothing stays behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from side4video.app.limits import Limits, in_bytes
from side4video.app.videos import Video, shown_name
from side4video.app.worker import Progress, Stage
from unit.app.stub import answer, open_page, write_clip


def files_in(temp: Path) -> list[Path]:
    return [path for path in temp.rglob("*") if path.is_file() and path.suffix != ".lock"]


def settled(client: TestClient, video_id: str) -> dict[str, Any]:
    """The video when nothing is left to do."""
    for _ in range(200):
        video = client.get(f"/api/videos/{video_id}").json()
        if video["state"] in {"done", "failed"}:
            return video
        time.sleep(0.02)
    raise AssertionError(video)


def test_a_video_goes_through_its_stages_and_is_played_in_parts(temp: Path, clip: bytes) -> None:
    with open_page(temp) as client:
        sent = client.post("/api/videos", content=clip, headers={"X-File-Name": "my%20clip.mp4"})
        assert sent.status_code == 201
        video = settled(client, sent.json()["id"])
        assert video["name"] == "my clip.mp4"
        assert video["info"] | {"seconds": 0} == {"seconds": 0, "frames": 6, "width": 48, "height": 32, "codec": "h264"}
        assert video["info"]["seconds"] == pytest.approx(0.6)
        assert video["results"]["classes"][0]["predictions"] == [{"label": "yes", "score": 1.0}]
        assert [entry["id"] for entry in client.get("/api/state").json()["videos"]] == [video["id"]]
        media = f"/api/videos/{video['id']}/media"
        whole = client.get(media)
        assert (whole.content, whole.headers["content-type"]) == (clip, "video/mp4")
        part = client.get(media, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, clip[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(clip)}"
        assert client.get(media, headers={"Range": f"bytes={len(clip)}-"}).status_code == 416
        assert client.delete(f"/api/videos/{video['id']}").status_code == 204
        assert client.get(media).status_code == 404
        assert files_in(temp) == []


def test_an_upload_can_be_cancelled_by_the_browsers_own_name_of_it(temp: Path, clip: bytes) -> None:
    with open_page(temp) as client:
        kept = client.post("/api/videos", content=clip, headers={"X-Upload": "one"}).json()["id"]
        client.post("/api/videos", content=clip, headers={"X-Upload": "two"})
        settled(client, kept)
        cookies = dict(client.cookies)
        client.cookies.clear()
        assert client.delete("/api/uploads/two").status_code == 204  # a stranger's word counts for nothing
        client.cookies.clear()
        client.cookies.update(cookies)
        assert len(client.get("/api/state").json()["videos"]) == 2
        assert client.delete("/api/uploads/two").status_code == 204
        assert [video["id"] for video in client.get("/api/state").json()["videos"]] == [kept]


def test_each_visitor_sees_only_their_own(temp: Path, clip: bytes) -> None:
    with open_page(temp) as client:
        mine = client.post("/api/videos", content=clip).json()["id"]
        settled(client, mine)
        cookies = dict(client.cookies)
        client.cookies.clear()
        assert client.get("/api/state").json()["videos"] == []
        for method, path in (
            ("GET", ""),
            ("GET", "/media"),
            ("DELETE", ""),
            ("POST", "/timeline"),
            ("POST", "/search"),
        ):
            answer = client.request(method, f"/api/videos/{mine}{path}")
            assert answer.status_code == 404
            assert "no such video of yours" in answer.json()["error"]
        client.cookies.clear()
        client.cookies.update(cookies)
        assert client.get(f"/api/videos/{mine}").status_code == 200


def test_an_oversized_file_is_refused_before_and_while_it_comes(temp: Path, clip: bytes) -> None:
    limits = Limits(max_upload_bytes=len(clip) + 10)
    with open_page(temp, limits=limits) as client:
        honest = client.post("/api/videos", content=b"x" * (len(clip) + 11))
        assert honest.status_code == 413
        # by what it says of itself, before a byte is read
        assert f"this file is too large: {in_bytes(len(clip) + 11)}, and at most" in honest.json()["error"]
        read = 0

        def endless() -> Iterator[bytes]:
            nonlocal read
            for _ in range(10_000):
                read += 1
                yield b"x" * 1000

        silent = client.post("/api/videos", content=endless())
        assert silent.status_code == 413
        assert client.post("/api/videos", content=clip).status_code == 201
        for length in ("-1", "1e3", "٣", "9" * 30):
            sent = client.post("/api/videos", content=b"x", headers={"Content-Length": length.encode()})
            assert sent.status_code == 400, length
        assert client.post("/api/videos", content=b"").json()["error"] == "this file is empty"
        assert len(files_in(temp)) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a video at all", "cannot be read as a video: damaged, truncated or not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n", "cannot be read as a video"),
        (b"\x00" * 5000, "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_refused(temp: Path, content: bytes, reason: str) -> None:
    with open_page(temp) as client:
        sent = client.post("/api/videos", content=content, headers={"X-File-Name": "holiday.mp4"})
        assert sent.status_code == 415
        assert reason in sent.json()["error"]
        assert str(temp) not in sent.text
        assert client.get("/api/state").json()["videos"] == []
        assert files_in(temp) == []


def test_long_large_and_fast_videos_are_refused_before_any_work(temp: Path, tmp_path: Path, clip: bytes) -> None:
    worked: list[Video] = []

    def run(video: Video, _progress: Progress) -> None:
        worked.append(video)

    limits = Limits(max_seconds=1.5, max_side=64, max_fps=40)
    with open_page(temp, limits=limits, run=run) as client:
        for content, words in (
            (write_clip(tmp_path / "long.mp4", frames=20), "too long: 2 s, and at most 2 s"),
            (write_clip(tmp_path / "wide.mp4", size=(80, 32)), "frames of 80x32 are larger than allowed"),
            (write_clip(tmp_path / "fast.mp4", frames=60, rate=60), "too many pictures a second: 60 in 1 s"),
            (clip[:-40], "cannot be read as a video: truncated"),
        ):
            sent = client.post("/api/videos", content=content)
            assert sent.status_code in {413, 415}
            assert words in sent.json()["error"]
            assert "SIDE4VIDEO" not in sent.text
        assert worked == []
        assert client.post("/api/videos", content=clip).status_code == 201


def test_the_queue_has_a_place_for_everybody_and_an_end(temp: Path, clip: bytes) -> None:
    go, turns = threading.Event(), []

    def run(video: Video, _progress: Progress) -> None:
        assert go.wait(20)
        turns.append(video.id)
        answer(video, _progress)

    def slow(video: Video, _progress: Progress) -> None:
        turns.append(f"later {video.id}")

    limits = Limits(max_waiting=4, max_waiting_each=3)
    later = Stage("timeline", "looking further", slow)
    with open_page(temp, limits=limits, run=run, more=[later]) as client:
        mine = [client.post("/api/videos", content=clip).json()["id"] for _ in range(3)]
        many = client.post("/api/videos", content=clip)
        assert many.status_code == 429
        assert "3 of your videos wait already" in many.json()["error"]
        assert "3 of your videos" in client.get("/api/state").json()["refusal"]
        first = client.get(f"/api/videos/{mine[0]}").json()
        assert (first["state"], first["position"]) == ("running", 0)
        assert [client.get(f"/api/videos/{one}").json()["position"] for one in mine[1:]] == [1, 2]
        cookies = dict(client.cookies)
        client.cookies.clear()
        theirs = client.post("/api/videos", content=clip).json()["id"]
        full = client.post("/api/videos", content=clip)
        assert (full.status_code, full.headers["retry-after"]) == (503, "15")
        assert "the queue is full: 4 videos wait already" in full.json()["error"]
        assert client.get(f"/api/videos/{theirs}").json()["position"] == 3
        go.set()
        settled(client, theirs)
        client.cookies.clear()
        client.cookies.update(cookies)
        for one in mine:
            settled(client, one)
    # everybody's first answer comes before anybody's second
    order = [*mine, theirs]
    assert turns == [*order, *(f"later {one}" for one in order)]


def test_a_removed_video_stops_and_makes_way(temp: Path, clip: bytes) -> None:
    started, told = threading.Event(), 0

    def run(video: Video, progress: Progress) -> None:
        nonlocal told
        started.set()
        for _ in range(2000):
            progress(0.5)
            told += 1
            time.sleep(0.01)

    with open_page(temp, run=run) as client:
        first, second = (client.post("/api/videos", content=clip).json()["id"] for _ in range(2))
        assert started.wait(10)
        assert client.delete(f"/api/videos/{second}").status_code == 204
        assert client.delete(f"/api/videos/{first}").status_code == 204
        deadline = time.monotonic() + 10
        while files_in(temp) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert files_in(temp) == []
        assert told < 1500


def test_a_stage_that_fails_is_told_and_the_next_video_is_served(
    temp: Path, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def run(video: Video, progress: Progress) -> None:
        if video.name == "bad":
            raise RuntimeError("secret details")
        answer(video, progress)

    def later(_video: Video, _progress: Progress) -> None:
        raise OSError(28, "No space left on device", "/secret/path")

    with open_page(temp, run=run, more=[Stage("timeline", "more", later)]) as client:
        bad = client.post("/api/videos", content=clip, headers={"X-File-Name": "bad"}).json()["id"]
        good = client.post("/api/videos", content=clip, headers={"X-File-Name": "good"}).json()["id"]
        failed = settled(client, bad)
        assert failed["state"] == "failed"
        assert failed["error"] == "something went wrong in the server; its log says what"
        done = settled(client, good)
        assert (done["state"], done["error"]) == ("done", "")
        assert done["problems"] == {"timeline": "the server cannot work on this video: No space left on device"}
        assert "secret" not in client.get("/api/state").text
        assert "secret details" in caplog.text


def test_a_stage_that_takes_too_long_is_given_up(temp: Path, clip: bytes) -> None:
    def run(_video: Video, progress: Progress) -> None:
        for _ in range(1000):
            time.sleep(0.01)
            progress(0.1)

    with open_page(temp, limits=Limits(max_work_seconds=0.1), run=run) as client:
        video = settled(client, client.post("/api/videos", content=clip).json()["id"])
        assert video["state"] == "failed"
        assert "takes more than 0 s here and was given up" in video["error"]


def test_old_videos_are_removed_and_others_are_not(temp: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("side4video.app.page._SWEEP_SECONDS", 0.05)
    with open_page(temp, limits=Limits(keep_seconds=0.4)) as client:
        old = client.post("/api/videos", content=clip).json()["id"]
        settled(client, old)
        time.sleep(0.6)
        assert client.get(f"/api/videos/{old}").status_code == 404
        assert files_in(temp) == []


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/%2e%2e/server.py",
        "/static//etc/passwd",
        "/static/app.py",
        "/api/videos/..%2f..%2f..%2fetc%2fpasswd/media",
        "/api/videos/../../../../etc/passwd",
        "/api/videos/%2e%2e%2f%2e%2e%2fetc%2fpasswd/pictures/..%2f..%2fx",
        "/api/moments/..%2f..%2fetc%2fpasswd/media",
        "/api/libraries/..%2f0/search",
        "/%2fetc/passwd",
        "/etc/passwd",
    ],
)
def test_paths_lead_nowhere(temp: Path, path: str, clip: bytes) -> None:
    with open_page(temp) as client:
        video = client.post("/api/videos", content=clip, headers={"X-File-Name": "..%2f..%2f..%2fetc%2fpasswd"})
        assert video.json()["name"] == "passwd"
        answer = client.get(path)
        assert answer.status_code in {404, 405}
        assert "error" in answer.json()
        assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b.mp4", "a b.mp4"),
        ("/etc/passwd", "passwd"),
        ("C:\\temp\\x.mov", "x.mov"),
        ("..", ".."),
        ("", "video"),
        ("\x00\x1b[31m\u202egpm.mp4", "[31mgpm.mp4"),
        ("x" * 300 + ".mp4", "x" * 108 + "…" + "xxxxxxx.mp4"),
    ],
)
def test_names_are_for_showing_only(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_small_requests_must_be_small_and_json(temp: Path, clip: bytes) -> None:
    with open_page(temp) as client:
        video = client.post("/api/videos", content=clip).json()["id"]
        settled(client, video)
        for content, words in (
            (b"[1]", "not a JSON object"),
            (b"{", "not a JSON object"),
            (b"[" * 8000, "not a JSON object"),
        ):
            sent = client.post(f"/api/videos/{video}/search", content=content)
            assert sent.status_code == 400
            assert words in sent.json()["error"]
        assert client.post(f"/api/videos/{video}/search", content=b"x" * 9000).status_code == 413
        for text, words in (
            ("", "the text is empty"),
            (3, "the text is empty"),
            ("x" * 501, "the text is too long: 501"),
        ):
            assert words in client.post(f"/api/videos/{video}/search", json={"text": text}).json()["error"]
        assert client.post(f"/api/videos/{video}/search", json={"text": "a dog"}).status_code == 409
        for seconds in (0, -1, 61, "2", None, True, float("1e30")):
            sent = client.post(f"/api/videos/{video}/timeline", json={"window_seconds": seconds})
            assert sent.status_code in {400, 404}
            assert "error" in sent.json()
        assert client.post(f"/api/videos/{video}/explain", json={"run": "x", "label": "y"}).status_code == 400
