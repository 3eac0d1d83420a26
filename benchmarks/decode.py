"""Measures reading 8 of 300 frames of a video: ours, OpenCV frame by frame, decord and torchcodec where installed.

    python benchmarks/decode.py [--rounds 5] [--clips 6] [--out benchmarks/results/decode.json]

Every reader opens the same files (H.264 in mp4, 320x240, B-frames, GOP 12 and GOP 250), reads the same frame numbers
(drawn as in training, one from each eighth), and gives RGB pixels with one decoder thread. Each frame carries its
number as a picture, and every reader's frames are checked against it before anything is measured. Readers take turns
within a round, so that a busy machine slows all of them; CPU time a clip says more than clips a second when it is busy.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1")

import av
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from assets.make_assets import Asset, encode, read_number  # noqa: E402
from side4video.data.decode import VideoReader  # noqa: E402
from side4video.data.sampling import segment_train  # noqa: E402

NUM_FRAMES, WANTED, WIDTH, HEIGHT = 300, 8, 320, 240
Reader = Callable[[Path, Sequence[int]], np.ndarray]
"""Frames (8, height, width, 3), RGB."""


def read_ours(path: Path, numbers: Sequence[int]) -> np.ndarray:
    with VideoReader(path) as reader:
        return reader.read(numbers).permute(0, 2, 3, 1).numpy()


def read_pyav_in_sequence(path: Path, numbers: Sequence[int]) -> np.ndarray:
    """The simple way with the same library: decode from the start up to the last frame."""
    wanted, frames = set(numbers), dict[int, np.ndarray]()
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number == max(numbers):
                break
    return np.stack([frames[number] for number in numbers])


def opencv_reader() -> Reader:
    cv2: Any = importlib.import_module("cv2")
    cv2.setNumThreads(1)

    def read(path: Path, numbers: Sequence[int]) -> np.ndarray:
        wanted, frames = set(numbers), dict[int, np.ndarray]()
        capture = cv2.VideoCapture(str(path))
        for number in range(max(numbers) + 1):
            capture.grab()
            if number in wanted:
                frames[number] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        capture.release()
        return np.stack([frames[number] for number in numbers])

    return read


def decord_reader() -> Reader:
    decord: Any = importlib.import_module("decord")

    def read(path: Path, numbers: Sequence[int]) -> np.ndarray:
        return decord.VideoReader(str(path), num_threads=1).get_batch(list(numbers)).asnumpy()

    return read


def torchcodec_reader() -> Reader:
    decoders: Any = importlib.import_module("torchcodec.decoders")

    def read(path: Path, numbers: Sequence[int]) -> np.ndarray:
        decoder = decoders.VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
        return decoder.get_frames_at(list(numbers)).data.numpy()

    return read


def available_readers() -> tuple[dict[str, Reader], dict[str, str]]:
    readers: dict[str, Reader] = {"side4video": read_ours, "pyav in sequence": read_pyav_in_sequence}
    missing: dict[str, str] = {}
    for name, make in (("opencv", opencv_reader), ("decord", decord_reader), ("torchcodec", torchcodec_reader)):
        try:
            readers[name] = make()
        except (ImportError, RuntimeError, OSError) as error:
            missing[name] = str(error).splitlines()[0]
    return readers, missing


def check(readers: dict[str, Reader], path: Path, numbers: Sequence[int]) -> dict[str, float]:
    """Mean difference of each reader's pixels from ours.

    Raises:
        AssertionError: a reader returned other frames than those asked for.
    """
    ours = read_ours(path, numbers)
    differences: dict[str, float] = {}
    for name, read in readers.items():
        frames = read(path, numbers)
        found = [read_number(frame.transpose(2, 0, 1)) for frame in frames]
        assert found == list(numbers), f"{name} returned frames {found}, not {list(numbers)}"
        differences[name] = round(float(np.abs(frames.astype(float) - ours).mean()), 3)
    return differences


def measure(readers: dict[str, Reader], clips: list[tuple[Path, list[int]]], rounds: int) -> dict[str, Any]:
    wall: dict[str, list[float]] = {name: [] for name in readers}
    cpu: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(rounds):
        names = list(readers)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            used, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            for path, numbers in clips:
                readers[name](path, numbers)
            wall[name].append(len(clips) / (time.perf_counter() - start))
            now = resource.getrusage(resource.RUSAGE_SELF)
            cpu[name].append(1000 * (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) / len(clips))
    ours = wall["side4video"]
    return {
        name: {
            "clips_per_second": round(statistics.median(speeds), 2),
            "lowest": round(min(speeds), 2),
            "highest": round(max(speeds), 2),
            "cpu_ms_per_clip": round(statistics.median(cpu[name]), 1),
            "cpu_of_this_over_ours": round(
                statistics.median(b / a for a, b in zip(cpu["side4video"], cpu[name], strict=True)), 2
            ),
            # round by round, because the machine's speed drifts
            "ours_over_this": round(statistics.median(a / b for a, b in zip(ours, speeds, strict=True)), 2),
        }
        for name, speeds in wall.items()
    }


def hardware() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "load_average": round(os.getloadavg()[0], 1),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found: dict[str, str] = {"python": platform.python_version()}
    for name in ("av", "torch", "opencv-python-headless", "decord", "torchcodec"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "decode.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    readers, missing = available_readers()
    generator = torch.Generator().manual_seed(0)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for gop in (12, 250):
            path = Path(folder) / f"gop{gop}.mp4"
            options = {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "preset": "medium", "bf": "3"}
            encode(path, Asset(path.name, "h264", options, num_frames=NUM_FRAMES, width=WIDTH, height=HEIGHT))
            clips = [(path, segment_train(NUM_FRAMES, WANTED, generator)) for _ in range(arguments.clips)]
            differences = [check(readers, path, numbers) for path, numbers in clips]
            results[f"gop {gop}"] = {
                "readers": measure(readers, clips, arguments.rounds),
                "file_bytes": path.stat().st_size,
                "mean_pixel_difference_from_ours": {n: max(d[n] for d in differences) for n in readers},
            }
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    report = {
        "command": "python benchmarks/decode.py " + " ".join(sys.argv[1:]),
        "commit": commit.stdout.strip(),
        "hardware": hardware(),
        "versions": versions(),
        "what": f"{WANTED} of {NUM_FRAMES} frames, {WIDTH}x{HEIGHT}, H.264 mp4, one thread; clips a second, median of "
        f"{arguments.rounds} rounds of {arguments.clips} clips",
        "not_installed": missing,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    for gop, result in results.items():
        for name, row in result["readers"].items():
            print(f"{gop:8s} {name:18s} {row['clips_per_second']:7.2f} clips/s  {row['cpu_ms_per_clip']:6.1f} ms CPU")


if __name__ == "__main__":
    main()
