"""`side4video app`: its models give what the other commands give, its library serves moments only, and what ends it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from run.app_pages import OVERRIDES, AppMaterial, material
from side4video.app.build import build_analysis
from side4video.app.footage import HELD_SECONDS
from side4video.app.limits import Limits
from side4video.app.page import Access
from side4video.app.server import create_app
from side4video.backbones.base import FrozenBackbone
from side4video.cli.main import main
from side4video.data.decode import probe_video
from side4video.errors import StoreError
from side4video.search.library import open_library

pytestmark = pytest.mark.xdist_group("app")


def open_page(runs: list[Path], libraries: list[Path], temp: Path) -> TestClient:
    words = [str(path) for path in libraries]
    analysis = build_analysis(runs, words, overrides=OVERRIDES, limits=Limits(), temp=temp)
    return TestClient(create_app(analysis, Access()), base_url="http://localhost")


@pytest.fixture(scope="module")
def own_lib(app_material: AppMaterial, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Footage and its library, which a test may change."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(app_material.footage, folder / "footage", copy_function=shutil.copy2)
    words = ["index", str(app_material.words), str(folder / "footage"), "--into", str(folder / "lib"), "--fps", "2"]
    assert main([*words, "train.accelerator=cpu"]) == 0
    return folder / "footage", folder / "lib"


@pytest.fixture
def client(app_material: AppMaterial, own_lib: tuple[Path, Path], tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "temp").mkdir()
    with open_page([app_material.colours], [own_lib[1]], tmp_path / "temp") as client:
        yield client
    assert list((tmp_path / "temp").iterdir()) == []


def uploaded(client: TestClient, path: Path) -> dict[str, Any]:
    """A video with all that was found in it."""
    video = client.post("/api/videos", content=path.read_bytes()).json()
    for _ in range(600):
        video = client.get(f"/api/videos/{video['id']}").json()
        if video["state"] in {"done", "failed"}:
            return video
        time.sleep(0.02)
    raise AssertionError(video)


def found(client: TestClient, text: str) -> list[dict[str, Any]]:
    answer = client.post("/api/libraries/0/search", json={"text": text})
    assert answer.status_code == 200, answer.text
    return answer.json()["moments"]


def test_the_scores_are_those_of_predict_and_runs_share_a_pass(
    app_material: AppMaterial, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Path(shutil.copytree(app_material.colours, tmp_path / "second"))
    capsys.readouterr()
    words = ["predict", str(app_material.colours), str(app_material.two_colours), "--json", "train.accelerator=cpu"]
    assert main(words) == 0
    (wanted,) = json.loads(capsys.readouterr().out)
    passes: list[int] = []
    stream = FrozenBackbone.stream

    def counted(self: FrozenBackbone, clip: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(clip.shape[0] * clip.shape[1])
        return stream(self, clip, *args, **kwargs)

    monkeypatch.setattr(FrozenBackbone, "stream", counted)
    frames: dict[int, int] = {}
    for runs in ([app_material.colours], [app_material.colours, second]):
        passes.clear()
        with open_page(runs, [], tmp_path) as client:
            video = uploaded(client, app_material.two_colours)
        classes = video["results"]["classes"]
        assert [entry["run"] for entry in classes] == [run.name for run in runs]
        for entry in classes:
            assert [p["label"] for p in entry["predictions"]] == [p["label"] for p in wanted["predictions"]]
            for mine, theirs in zip(entry["predictions"], wanted["predictions"], strict=True):
                assert mine["score"] == pytest.approx(theirs["score"], abs=1e-6)
        assert [entry["run"] for entry in video["results"]["timeline"]["runs"]] == [run.name for run in runs]
        frames[len(runs)] = sum(passes) - len(runs) * material.NUM_FRAMES  # explanations are each run's own
    assert frames[1] == frames[2] > 20


def test_a_library_serves_moments_and_nothing_else(client: TestClient, own_lib: tuple[Path, Path]) -> None:
    moments = found(client, "a red circle")
    name, start, end = material.moment_of("red")
    assert moments[0]["video"] == name
    assert moments[0]["start"] < end
    assert moments[0]["end"] > start
    assert str(own_lib[0]) not in json.dumps(moments)
    playing = client.get(f"/api/moments/{moments[0]['id']}").json()
    assert (playing["start"], playing["end"]) == (moments[0]["start"], moments[0]["end"])
    content = (own_lib[0] / name).read_bytes()
    part = client.get(playing["media"], headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    picture = client.get(f"/api/moments/{moments[0]['id']}/picture")
    assert picture.headers["content-type"] == "image/jpeg"
    # no id, no moment: of nobody else's session, of no path
    cookies = dict(client.cookies)
    client.cookies.clear()
    for moment_id in (moments[0]["id"], "x", "0"):
        assert client.get(f"/api/moments/{moment_id}/media").status_code == 404
    client.cookies.clear()
    client.cookies.update(cookies)
    for number in ("1", "-1", "x", "00000000", "%D9%A1"):
        assert client.post(f"/api/libraries/{number}/search", json={"text": "a"}).status_code == 404
    for top in (0, 61, "3", 1.5):
        assert client.post("/api/libraries/0/search", json={"text": "a", "top": top}).status_code == 400


def test_a_moment_of_an_avi_is_cut_out(client: TestClient, tmp_path: Path) -> None:
    moment = found(client, "a blue circle")[0]
    name, start, _ = material.moment_of("blue")
    assert moment["video"] == name
    playing = client.get(f"/api/moments/{moment['id']}").json()
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(client.get(playing["media"]).content)
    info = probe_video(clip)
    assert (info.codec, info.container) == ("h264", "mov")
    assert playing["start"] == pytest.approx(2.0)
    assert playing["end"] - playing["start"] == pytest.approx(moment["end"] - moment["start"])
    assert info.duration_seconds == pytest.approx(min(8.0, moment["end"] + 2) - (moment["start"] - 2), abs=0.15)
    # a second time it is there already
    assert client.get(playing["media"]).content == clip.read_bytes()


def test_a_library_is_searched_by_a_video(client: TestClient, app_material: AppMaterial) -> None:
    video = uploaded(client, app_material.green)
    moments = client.post("/api/libraries/0/search", json={"video": video["id"]}).json()["moments"]
    assert len(moments) > 3
    assert moments[0]["score"] <= 1
    assert client.post("/api/libraries/0/search", json={"video": "x"}).status_code == 404
    assert client.post("/api/libraries/0/search", json={}).status_code == 400


def test_files_that_changed_or_went_are_not_served(client: TestClient, own_lib: tuple[Path, Path]) -> None:
    moment = next(m for m in found(client, "a yellow circle") if m["video"] == material.moment_of("yellow")[0])
    path = own_lib[0] / moment["video"]
    content, state = path.read_bytes(), path.stat()
    paths = [f"/api/moments/{moment['id']}{part}" for part in ("", "/media", "/picture")]
    assert client.get(paths[1]).status_code == 200
    try:
        path.write_bytes(content + b"x")
        for one in paths:
            answer = client.get(one)
            assert answer.status_code == 410
            assert answer.json()["error"].startswith("garden/noon.mp4 has changed since it was indexed")
        path.unlink()
        path.symlink_to("/etc/passwd")
        assert client.get(paths[1]).status_code == 410
        path.unlink()
        answer = client.get(paths[1])
        assert answer.status_code == 410
        assert "is not on the disk any more" in answer.json()["error"]
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert client.get(paths[1]).status_code == 200


def test_the_library_is_let_go_of_and_in_use_is_said(
    app_material: AppMaterial, own_lib: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("side4video.app.footage._WAIT_SECONDS", 0.0)
    analysis = build_analysis([], [str(own_lib[1])], overrides=OVERRIDES, limits=Limits(), temp=tmp_path)
    (library,) = analysis.footage
    with TestClient(create_app(analysis, Access()), base_url="http://localhost") as client:
        open_library(own_lib[1]).close()
        assert found(client, "a red circle")
        library.close_idle()
        with pytest.raises(StoreError, match="is in use by this very process"):
            open_library(own_lib[1])
        library.close_idle(time.monotonic() + HELD_SECONDS + 1)
        with open_library(own_lib[1]):
            answer = client.post("/api/libraries/0/search", json={"text": "a red circle"})
            assert answer.status_code == 503
            assert "the library is being changed now" in answer.json()["error"]
        assert found(client, "a red circle")
    open_library(own_lib[1]).close()


def test_saliency_and_timeline_are_pictures_and_numbers(client: TestClient, app_material: AppMaterial) -> None:
    video = uploaded(client, app_material.two_colours)
    assert video["problems"] == {}
    (run,) = video["results"]["timeline"]["runs"]
    assert [segment["label"] for segment in run["segments"]] == ["red disc", "blue disc"]
    (explained,) = video["results"]["explain"]
    assert sum(frame["share"] for frame in explained["frames"]) == pytest.approx(1, abs=1e-4)
    for entry in (*video["results"]["timeline"]["thumbnails"], *explained["frames"]):
        answer = client.get(f"/api/videos/{video['id']}/pictures/{entry['picture']}")
        assert answer.headers["content-type"] == "image/jpeg"
    old = explained["frames"][0]["picture"]
    asked = client.post(f"/api/videos/{video['id']}/explain", json={"run": "colours", "label": "green disc"})
    assert asked.status_code == 202
    while client.get(f"/api/videos/{video['id']}").json()["state"] != "done":
        time.sleep(0.02)
    (explained,) = client.get(f"/api/videos/{video['id']}").json()["results"]["explain"]
    assert explained["label"] == "green disc"
    assert client.get(f"/api/videos/{video['id']}/pictures/{old}").status_code == 404


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such run folder: 'nowhere'"),
        (["RUN", "--host", "0.0.0.0"], "--host 0.0.0.0 lets others reach the page, so it needs a password"),
        (["RUN", "--host", "::"], "so it needs a password"),
        (["RUN", "--port", "99999"], "--port: must be from 0 to 65535; got 99999"),
        (["RUN", "--queue", "0"], "--queue: must be at least 1; got 0"),
        (["RUN", "--max-upload", "many"], "--max-upload: must be a size such as 12GB"),
        (["RUN", "--max-upload", "3GB"], "--max-disk: must be at least twice --max-upload (6 GB)"),
        (["RUN", "--max-seconds", "0"], "--max-seconds: must be more than 0; got 0"),
        (["RUN", "--password-file", "nowhere"], "--password-file nowhere: No such file"),
        (["RUN", "--password"], "--password asks on a terminal, and this is none"),
        (["RUN", "--temp", "nowhere", "--port", "0"], "nowhere: uploads cannot be kept there"),
        (["RUN", "--host", "no.such.host.invalid", "--port", "0"], "needs a password"),
        (["RUN", "data.num_frames=4"], "cannot be changed here"),
    ],
)
def test_bad_words_are_refused(
    words: list[str],
    message: str,
    app_material: AppMaterial,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDE4VIDEO_PASSWORD", raising=False)
    assert main(["app", *(str(app_material.colours) if word == "RUN" else word for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_short_password_is_refused(
    app_material: AppMaterial, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDE4VIDEO_PASSWORD", "short")
    words = ["app", str(app_material.colours), "--host", "0.0.0.0", "--port", "0"]
    assert main(words) == 2
    assert "the password must have at least 8 characters" in capsys.readouterr().err
    (tmp_path / "empty").write_text("\nsecond line\n")
    assert main([*words, "--password-file", str(tmp_path / "empty")]) == 2
    assert "its first line is empty" in capsys.readouterr().err


def test_ctrl_c_ends_it_and_nothing_is_left(app_material: AppMaterial, tmp_path: Path) -> None:
    # a library of its own: the browser tests' server may have the other one open
    library, temporary = shutil.copytree(app_material.lib, tmp_path / "lib"), tmp_path / "temporary"
    temporary.mkdir()
    words = [str(app_material.colours), str(library), "--port", "0", "--temp", str(temporary)]
    process = subprocess.Popen(
        [sys.executable, "-m", "side4video.cli.main", "app", *words, "train.accelerator=cpu"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.startswith("side4video app: http://127.0.0.1:"), line
        address = line.split()[2]
        request = urllib.request.Request(f"{address}api/videos", data=app_material.two_colours.read_bytes())
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 201
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "the uploads are deleted" in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert list(temporary.iterdir()) == []
