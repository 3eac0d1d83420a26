"""How many damaged pictures decoders show without a word, and whether strict settings or log lines would tell more.

    python benchmarks/bitstream_damage.py --files 60        writes benchmarks/results/bitstream_damage.json

In each file three bits of the compressed pictures are flipped, and nothing of the container. Then every third frame is
read by its number and compared with the undamaged one. `refused`: an error, which is what a damaged frame should be.
`right`: equal to the last bit (the damage is elsewhere). `slight`: no value differs by more than 16. `visible`: some.
`other_number`: the picture shows another frame's number, because the decoder lost one or filled a hole with
another. `logged`: damaged frames, not refused, of which the decoder wrote a line of error to its log.

Settings: `shipped` is what the package does. The others set FFmpeg's `err_detect` for the decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import torch

from fuzzing.bases import Base, prepare
from side4video.data import decode, packets
from side4video.data.decode import VideoReader
from side4video.errors import VideoError
from side4video.training.files import write_json
from side4video.training.provenance import hardware, source_commit

from assets.make_assets import read_number  # isort: skip

RESULT = Path(__file__).parent / "results" / "bitstream_damage.json"
NAMES = ("h264.mp4", "hevc.mp4", "vp9.webm", "av1.mp4", "mpeg4.mp4", "vp8.webm", "mpeg2.ts", "mjpeg.avi")
SETTINGS = {
    "shipped": "",
    "explode": "explode",
    "strict": "crccheck+bitstream+buffer+explode",
    "aggressive": "crccheck+bitstream+buffer+careful+compliant+aggressive+explode",
}
BITS, EVERY, SLIGHT = 3, 3, 16


@contextlib.contextmanager
def err_detect(value: str) -> Generator[None]:
    """Inside, decoders are opened with this setting."""
    real = decode.video_stream

    def strict(*args: Any, **more: Any) -> Any:
        stream = real(*args, **more)
        stream.codec_context.options = {**stream.codec_context.options, **({"err_detect": value} if value else {})}
        return stream

    decode.video_stream = packets.video_stream = strict
    try:
        yield
    finally:
        decode.video_stream = packets.video_stream = real


def flipped(base: Base, path: Path, rng: random.Random) -> None:
    """Write the file with a few bits of its pictures flipped."""
    data = bytearray(base.data)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None and p.pos >= 0]
    for _ in range(BITS):
        start, size = rng.choice(places)
        place = min(rng.randrange(start, start + size), len(data) - 1)
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def read_all(path: Path, clean_TCHW: np.ndarray) -> Counter[str]:
    """What became of every third frame."""
    found: Counter[str] = Counter()
    numbers = range(0, len(clean_TCHW), EVERY)
    try:
        reader = VideoReader(path)
    except VideoError:
        return Counter({"frames": len(numbers), "refused": len(numbers)})
    with reader:
        for number in numbers:
            found["frames"] += 1
            if number >= reader.info.num_frames:
                found["refused"] += 1
                continue
            av.logging.set_level(av.logging.ERROR)
            try:
                with av.logging.Capture() as lines:
                    frame_CHW = reader.read([number])[0].numpy()
            except VideoError:
                found["refused"] += 1
                continue
            finally:
                av.logging.set_level(None)
            kind = _compare(frame_CHW, clean_TCHW[number], number)
            found[kind] += 1
            found["logged"] += bool(lines) and kind != "right"
    return found


def _compare(frame_CHW: np.ndarray, clean_CHW: np.ndarray, number: int) -> str:
    if frame_CHW.shape == clean_CHW.shape:
        most = int(np.abs(frame_CHW.astype(np.int16) - clean_CHW).max())
        if most == 0:
            return "right"
        if most <= SLIGHT:
            return "slight"
    with contextlib.suppress(ValueError):
        if read_number(frame_CHW) != number:
            return "other_number"
    return "visible"


def measure(files: int, seed: int) -> dict[str, dict[str, dict[str, int]]]:
    """Counts by codec and setting; the same files for every setting."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as work:
        bases = prepare(Path(work), with_long=False)
        for name in NAMES:
            base = bases.videos[name]
            with VideoReader(Path(work) / "videos" / name) as reader:
                clean_TCHW = reader.read(range(reader.info.num_frames)).numpy()
            path = Path(work) / f"damaged{base.suffix}"
            counts = {setting: Counter[str]() for setting in SETTINGS}
            for number in range(files):
                flipped(base, path, random.Random(f"{seed} {name} {number}"))
                for setting, value in SETTINGS.items():
                    with err_detect(value):
                        counts[setting] += read_all(path, clean_TCHW)
            found[name] = {setting: dict(sorted(count.items())) for setting, count in counts.items()}
            print(name, found[name]["shipped"], file=sys.stderr)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    commit = source_commit()
    found = measure(args.files, args.seed)
    command = f"python benchmarks/bitstream_damage.py --files {args.files} --seed {args.seed}"
    about = {"command": command, "commit": commit, "hardware": hardware(), "files": args.files, "bits": BITS}
    write_json(RESULT, {**about, "av": av.__version__, "codecs": found})


if __name__ == "__main__":
    main()
