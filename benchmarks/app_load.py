"""The web page under load: 50 visitors at once upload, wait for their answers, search, play, and send what is wrong.

    python benchmarks/app_load.py [--users 50] [--seconds 60]
    python benchmarks/app_load.py --docs      write the table of docs/app.md from the stored result

The page is a process of its own (`side4video app` with a classifier and a library on `tiny-clip`), the visitors are
coroutines of this one, on the same two cores. Each has its own session and does again and again, without a pause: opens
the page, uploads a clip of six seconds (every third in a codec that has to be written anew), asks every 0.6 to 2
seconds how far it is as the page's script does, plays a part of it, searches the library by a text and once by the
video, looks at four pictures, plays the best moment, removes the video. Between these come requests that must be
refused: another visitor's video, paths that lead out, an oversized file, no video, broken JSON, another site's origin,
a foreign host name. Any answer but the expected one is an error, and so is a first answer that names the wrong colour.

A clip's first answer needs a turn of the one model, so it takes as long as the queue; the other requests should not.
Writes `benchmarks/results/app_load.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx

import app_material as material
from side4video.training.provenance import hardware, source_commit

RESULT = Path(__file__).parent / "results" / "app_load.json"
PAGE = Path(__file__).parents[1] / "docs" / "app.md"
BEGIN, END = "<!-- load: begin -->", "<!-- load: end -->"
MAX_UPLOAD = 300_000
ORDER = (
    "open the page",
    "upload",
    "ask how far",
    "play a part",
    "search by text",
    "search by video",
    "picture",
    "play a moment",
    "remove",
    "refused",
)


class Load:
    """What all visitors have seen so far."""

    def __init__(self, address: str, clips: list[tuple[str, bytes]], deadline: float) -> None:
        self.address, self.clips, self.deadline = address, clips, deadline
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.first_answers: list[float] = []
        self.errors: Counter[str] = Counter()
        self.others: list[str] = []

    async def ask(
        self, client: httpx.AsyncClient, kind: str, method: str, path: str, expected: int, **more: Any
    ) -> httpx.Response | None:
        """One request; its time counts, and another status than the expected one is an error."""
        begun = time.perf_counter()
        try:
            answer = await client.request(method, path, **more)
        except httpx.HTTPError as error:
            self.errors[f"{kind}: {type(error).__name__}"] += 1
            return None
        self.seconds[kind].append(time.perf_counter() - begun)
        if answer.status_code != expected:
            self.errors[f"{kind}: {answer.status_code} instead of {expected}: {answer.text[:120]}"] += 1
            return None
        return answer


async def visit(load: Load, number: int) -> None:
    """One visitor, until the time is over."""
    rng = random.Random(number)
    limits = httpx.Limits(max_connections=6)
    async with httpx.AsyncClient(base_url=load.address, timeout=60, limits=limits) as client:
        turn = 0
        while time.monotonic() < load.deadline:
            colour, clip = load.clips[(number + turn) % len(load.clips)]
            turn += 1
            await load.ask(client, "open the page", "GET", "/", 200)
            await load.ask(client, "open the page", "GET", "/api/state", 200)
            begun = time.perf_counter()
            sent = await load.ask(
                client, "upload", "POST", "/api/videos", 201, content=clip, headers={"X-File-Name": f"{colour}.mp4"}
            )
            if sent is None:
                continue
            video = sent.json()
            load.others.append(video["id"])
            await wrong(load, client, rng)
            answered = False
            while video["state"] in {"waiting", "running"}:
                await asyncio.sleep(2.0 if video["position"] > 3 else 0.6)
                answer = await load.ask(client, "ask how far", "GET", f"/api/videos/{video['id']}", 200)
                if answer is None:
                    break
                video = answer.json()
                if "classes" in video["results"] and not answered:
                    answered = True
                    load.first_answers.append(time.perf_counter() - begun)
                    best = video["results"]["classes"][0]["predictions"][0]["label"]
                    if best != f"{colour} disc":
                        load.errors[f"the wrong class: {best} for {colour}"] += 1
                if answered and time.monotonic() > load.deadline:
                    break
            if video["state"] == "failed" or video["problems"]:
                load.errors[f"{video['error']} {video['problems']}"] += 1
            if "playback" in video["results"]:
                await load.ask(
                    client,
                    "play a part",
                    "GET",
                    f"/api/videos/{video['id']}/media",
                    206,
                    headers={"Range": "bytes=0-999"},
                )
            await search(load, client, video["id"], rng)
            await load.ask(client, "remove", "DELETE", f"/api/videos/{video['id']}", 204)


async def search(load: Load, client: httpx.AsyncClient, video: str, rng: random.Random) -> None:
    """The library, as a visitor looks through it."""
    colour = rng.choice(("red", "blue", "yellow"))
    found = await load.ask(
        client, "search by text", "POST", "/api/libraries/0/search", 200, json={"text": f"a {colour} circle"}
    )
    if found is not None:
        moments = found.json()["moments"]
        name, start, end = material.moment_of(colour)
        best = moments[0]
        if best["video"] != name or best["start"] >= end or best["end"] <= start:
            load.errors[f"the wrong moment for {colour}: {best['video']} {best['start']}"] += 1
        for moment in moments[:4]:
            await load.ask(client, "picture", "GET", f"/api/moments/{moment['id']}/picture", 200)
        await load.ask(client, "play a moment", "GET", f"/api/moments/{best['id']}", 200)
        await load.ask(
            client, "play a moment", "GET", f"/api/moments/{best['id']}/media", 206, headers={"Range": "bytes=0-999"}
        )
    await load.ask(client, "search by video", "POST", "/api/libraries/0/search", 200, json={"video": video})


async def wrong(load: Load, client: httpx.AsyncClient, rng: random.Random) -> None:
    """What must be refused; each visitor sends two of these in a turn."""
    other = rng.choice(load.others)
    async with httpx.AsyncClient(base_url=load.address, timeout=60) as stranger:
        requests: list[tuple[httpx.AsyncClient, str, str, int, dict[str, Any]]] = [
            (stranger, "GET", f"/api/videos/{other}", 404, {}),
            (client, "GET", "/static/..%2f..%2f..%2fetc%2fpasswd", 404, {}),
            (client, "GET", "/api/moments/%2fetc%2fpasswd/media", 404, {}),
            (client, "POST", "/api/videos", 413, {"content": b"x" * (MAX_UPLOAD + 1)}),
            (client, "POST", "/api/videos", 415, {"content": b"this is no video"}),
            (client, "POST", "/api/libraries/0/search", 400, {"content": b"{"}),
            (
                client,
                "POST",
                "/api/libraries/0/search",
                403,
                {"json": {}, "headers": {"Origin": "http://evil.example"}},
            ),
            (client, "GET", "/api/state", 421, {"headers": {"Host": "evil.example"}}),
        ]
        for asker, method, path, expected, more in rng.sample(requests, 2):
            await load.ask(asker, "refused", method, path, expected, **more)


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def resident_mb(pid: int) -> tuple[float, float]:
    """Memory of a process now and at its peak."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = {key: int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) / 1024 for key in ("VmRSS", "VmHWM")}  # type: ignore[index]
    return found["VmRSS"], found["VmHWM"]


def start_page(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Runs, a library, and the page that serves them."""
    clips = material.write_train_clips(folder / "clips")
    material.train_classifier(clips, folder / "colours")
    words = material.write_retrieval_run(folder / "words")
    material.write_library(words, folder / "footage", folder / "lib")
    options = ["--port", "0", "--max-upload", f"{MAX_UPLOAD / 1e6}MB", "--queue", "100", "--temp", str(folder)]
    command = [
        sys.executable,
        "-m",
        "side4video.cli.main",
        "app",
        str(folder / "colours"),
        str(folder / "lib"),
        *options,
    ]
    process = subprocess.Popen([*command, "train.accelerator=cpu"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    if "http://" not in line:
        raise RuntimeError(line + process.stderr.read())
    return process, line.split()[2]


async def run(users: int, seconds: float, folder: Path) -> dict[str, Any]:
    """The whole measurement."""
    process, address = start_page(folder)
    try:
        clips: list[tuple[str, bytes]] = []
        for number, colour in enumerate(("red", "green", "blue") * 2):
            codec = "mpeg4" if number % 3 == 0 else "libx264"
            path = folder / f"upload-{number}.{'avi' if codec == 'mpeg4' else 'mp4'}"
            clips.append(
                (colour, material.write_video(path, [(colour, 6)], seed=50 + number, codec=codec).read_bytes())
            )
        before, _ = resident_mb(process.pid)
        load = Load(address, clips, time.monotonic() + seconds)
        begun = time.perf_counter()
        await asyncio.gather(*(visit(load, number) for number in range(users)))
        took = time.perf_counter() - begun
        after, peak = resident_mb(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        assert process.stderr is not None
        said = process.stderr.read()
    if code != 130:
        load.errors[f"exit code {code}"] += 1
    if "Traceback" in said:
        load.errors["a traceback in the server's log"] += 1
    if list(folder.glob("side4video-app-*")):
        load.errors["uploads were left behind"] += 1
    rows = {kind: _row(load.seconds[kind]) for kind in ORDER if load.seconds[kind]}
    count = sum(row["count"] for row in rows.values())
    return {
        "users": users,
        "seconds": round(took, 1),
        "requests": count,
        "requests_a_second": round(count / took, 1),
        "videos_a_second": round(len(load.first_answers) / took, 2),
        "rows": rows,
        "first_answer": _row(load.first_answers),
        "errors": dict(load.errors),
        "resident_mb_before": round(before, 1),
        "resident_mb_after": round(after, 1),
        "resident_mb_peak": round(peak, 1),
    }


def _row(seconds: list[float]) -> dict[str, float]:
    return {
        "count": len(seconds),
        "p50_ms": round(1000 * percentile(seconds, 0.5), 1),
        "p95_ms": round(1000 * percentile(seconds, 0.95), 1),
        "max_ms": round(1000 * max(seconds), 1),
    }


def page_table(result: dict[str, Any]) -> str:
    """The table of the documentation."""
    lines = ["| request | count | p50 | p95 |", "|---|---:|---:|---:|"]
    named = {**result["rows"], "from upload to the first answer": result["first_answer"]}
    for kind, row in named.items():
        lines.append(f"| {kind} | {row['count']:,} | {row['p50_ms']:,.0f} ms | {row['p95_ms']:,.0f} ms |")
    machine = result["hardware"]
    lines += [
        "",
        f"{result['users']} visitors at once for {result['seconds']:.0f} seconds: {result['requests']:,} requests "
        f"({result['requests_a_second']:.0f} a second), {result['first_answer']['count']:,} videos "
        f"({result['videos_a_second']:.1f} a second), {sum(result['errors'].values())} unexpected answers. Memory of "
        f"the page: {result['resident_mb_before']:,.0f} MB before, {result['resident_mb_peak']:,.0f} MB at its peak. "
        f"{machine['cores']} cores of {machine['processor']}, shared with the visitors and whatever else ran (load "
        f"average {machine['load_average']:.1f}); `{result['command']}`, "
        f"commit `{result['commit'][:12]}`.",
    ]
    return "\n".join(lines)


def write_page(result: dict[str, Any]) -> None:
    """Put the table into the documentation."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{page_table(result)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--docs", action="store_true", help="write the documentation's table from the stored result")
    options = parser.parse_args()
    if options.docs:
        write_page(json.loads(RESULT.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory(prefix="app-load-") as folder:
        measured = asyncio.run(run(options.users, options.seconds, Path(folder)))
    words = [
        f"--{name} {value:g}"
        for name, value in vars(options).items()
        if name != "docs" and value != parser.get_default(name)
    ]
    result = {
        "command": " ".join(["python benchmarks/app_load.py", *words]),
        "commit": source_commit(),
        "hardware": {**hardware(), "load_average": round(os.getloadavg()[0], 1)},
        **measured,
    }
    print(page_table(result))
    print(json.dumps(result["errors"], indent=1))
    if not words:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if result["errors"] else 0)


if __name__ == "__main__":
    main()
