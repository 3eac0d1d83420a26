"""The undamaged files that inputs are made from: numbered pictures in every container and codec, encoded once.

Frame n of a base shows the number n (`tests/assets/make_assets.py`), so a frame says by itself which one it is.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from PIL import Image

TESTS = Path(__file__).parents[2] / "tests"
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from assets import make_assets  # noqa: E402

FRAMES = 30
LONG_GOP = 12
LONG_HOURS = 10
PICTURES = 6
_LEFT_OUT = ("alpha-prores.mov",)  # 425 kB: the others are 2 to 30


@dataclass(frozen=True)
class Base:
    """A file by its name; `expected` are the numbers that its frames show, in order."""

    name: str
    data: bytes
    expected: tuple[int, ...]

    @property
    def suffix(self) -> str:
        """The container's."""
        return Path(self.name).suffix


@dataclass
class Bases:
    """All bases: videos by name, long videos by path, pictures by suffix and number."""

    folder: Path
    videos: dict[str, Base] = field(default_factory=dict[str, Base])
    long: dict[str, Path] = field(default_factory=dict[str, Path])
    pictures: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])


def prepare(folder: Path, *, with_long: bool = True) -> Bases:
    """Make what is missing in `folder`, and read it."""
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    bases = Bases(folder)
    for asset in make_assets.ASSETS:
        if asset.name in _LEFT_OUT:
            continue
        target = videos / asset.name
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=folder) as own, make_assets.quiet():
                make_assets.encode(Path(own) / asset.name, asset)
                (Path(own) / asset.name).replace(target)
        bases.videos[asset.name] = Base(asset.name, target.read_bytes(), tuple(range(asset.num_frames)))
    for name, hidden in (("h264.mp4", 7), ("hevc.mp4", 17)):
        cut = videos / f"cut-{name}"
        if not cut.exists():
            make_assets.cut_by_edit_list(videos / name, cut, hidden)
        bases.videos[cut.name] = Base(cut.name, cut.read_bytes(), tuple(range(hidden, FRAMES)))
    for suffix in ("png", "jpg", "webp", "bmp"):
        bases.pictures[suffix] = [_picture(number, suffix) for number in range(PICTURES)]
    if with_long:
        for name, rate in (("slow.mp4", 1), ("slow.mkv", 1), ("slow.ts", 1), ("full.mp4", 25), ("full.mkv", 25)):
            path = videos / f"long-{name}"
            if not path.exists():
                _long_video(path, rate)
            bases.long[path.name] = path
    return bases


def _picture(number: int, suffix: str) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=f".{suffix}") as file:
        Image.fromarray(make_assets.draw_frame(number, 64, 48)).save(file.name, quality=95)
        return Path(file.name).read_bytes()


def _long_video(path: Path, rate: int) -> None:
    """Ten hours: one GOP of twelve small pictures, again and again. The number of a frame is its place in its GOP."""
    first = path.with_name(f"gop-{path.stem}.mkv")
    with av.open(str(first), "w") as container:
        options = {"g": str(LONG_GOP), "bf": "0", "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(LONG_GOP):
            blocks = np.where(np.array(make_assets.code_bits(number)).reshape(3, 4), 210, 45).astype(np.uint8)
            picture = np.repeat(np.repeat(blocks, 16, 0), 16, 1)
            frame = av.VideoFrame.from_ndarray(np.stack([picture] * 3, -1), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    partial = path.with_name(f"partial-{path.name}")
    with av.open(str(first)) as old, av.open(str(partial), "w") as new:
        stream = old.streams.video[0]
        packets = [(bytes(p), p.is_keyframe) for p in old.demux(stream) if p.size]
        copy = new.add_stream_from_template(stream)
        copy.time_base = stream.time_base
        ticks = round(1 / (rate * stream.time_base))
        for number in range(LONG_HOURS * 3600 * rate):
            data, is_key = packets[number % LONG_GOP]
            packet = av.Packet(data)
            packet.pts = packet.dts = number * ticks
            packet.duration, packet.time_base, packet.is_keyframe = ticks, stream.time_base, is_key
            packet.stream = copy
            new.mux_one(packet)
    partial.replace(path)
    first.unlink()
