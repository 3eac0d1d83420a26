"""Draws and encodes the test videos: every frame carries its own number as a code of big blocks.

    python tests/assets/make_assets.py [FOLDER]

Nothing is downloaded and nothing is kept in git; the encoders are those of PyAV's wheel. `ASSETS` is the catalogue.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np

GENERATED = Path(__file__).parent / "generated"
VERSION = "1"
"""Raise it when what is drawn or encoded changes."""

COLUMNS, ROWS = 4, 3
NUMBER_BITS = 9
DARK, BRIGHT = 45, 210

CODECS = {
    "h264": ("libx264", {"preset": "veryfast", "g": "12", "bf": "3", "keyint_min": "12", "sc_threshold": "0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "keyint=12:bframes=3:no-open-gop=1:log-level=none"}),
    "vp9": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10"}),
    "av1": ("libsvtav1", {"preset": "8", "g": "12", "crf": "15"}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2", "q": "3"}),
}
CONTAINERS = ("mp4", "mov", "mkv", "webm", "avi", "ts")
REFUSED = frozenset(
    {
        ("hevc", "avi"),
        ("h264", "webm"),
        ("hevc", "webm"),
        ("mpeg4", "webm"),
        ("vp9", "mov"),
        ("av1", "mov"),
        ("vp9", "ts"),
        ("av1", "ts"),
    }
)
"""Pairs that the container's muxer, or its format, does not allow."""


NOTHING_CODED = b"\x00\x00\x01\xb6\x50\xcf"
"""An MPEG-4 P-picture that says "as before": decoders give no frame for it (25 time units a second)."""


@dataclass(frozen=True)
class Asset:
    """One test video."""

    name: str
    """File name, with the container's suffix."""
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    """Encoder options beside the codec's own in `CODECS`."""
    num_frames: int = 30
    width: int = 96
    height: int = 72
    """Of the upright picture."""
    pix_fmt: str = "yuv420p"
    rotation: int = 0
    """Counter-clockwise turn that a reader must apply."""
    ticks: tuple[int, ...] = ()
    """Presentation time of each frame in 1/1000 s; empty: 25 frames a second from 0."""
    encoder: str | None = None
    is_full_range: bool = False
    audio: bool = False
    mux_options: dict[str, str] = field(default_factory=dict)


def _variable(num_frames: int) -> tuple[int, ...]:
    steps = (40, 15, 100, 33, 250, 20)
    return tuple(int(t) for t in np.cumsum([0, *(steps[i % len(steps)] for i in range(num_frames - 1))]))


_OPEN_GOP = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-pyramid=normal:scenecut=0"}
_CRA = {"x265-params": "keyint=10:min-keyint=10:bframes=3:open-gop=1:scenecut=0:log-level=none"}
ASSETS: tuple[Asset, ...] = (
    *(
        Asset(f"{codec}.{container}", codec)
        for codec in CODECS
        for container in CONTAINERS
        if (codec, container) not in REFUSED
    ),
    *(Asset(f"opengop-h264.{c}", "h264", _OPEN_GOP, num_frames=44) for c in ("mp4", "mkv", "ts", "avi")),
    *(Asset(f"opengop-hevc.{c}", "hevc", _CRA, num_frames=44) for c in ("mp4", "mkv", "ts")),
    *(
        Asset(f"intrarefresh.{c}", "h264", {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}, num_frames=50)
        for c in ("mp4", "mkv", "ts")
    ),
    Asset("onegop.mp4", "h264", {"g": "250", "keyint_min": "250"}, num_frames=60),
    Asset("allintra.mp4", "h264", {"g": "1", "keyint_min": "1"}),
    Asset("onegop-hevc.mkv", "hevc", {"x265-params": "keyint=250:bframes=4:log-level=none"}, num_frames=60),
    *(
        Asset(f"vfr-{codec}.{c}", codec, ticks=_variable(30))
        for codec, c in (("h264", "mp4"), ("h264", "mkv"), ("vp9", "webm"), ("hevc", "mov"), ("h264", "ts"))
    ),
    *(Asset(f"late.{c}", "h264", ticks=tuple(range(7000, 7000 + 40 * 30, 40))) for c in ("mp4", "mkv", "ts")),
    *(Asset(f"rotated{r}.mp4", "h264", rotation=r) for r in (90, 180, 270)),
    Asset("rotated90.mov", "mpeg4", rotation=90),
    Asset("odd-vp9.webm", "vp9", width=97, height=73),
    Asset("odd-h264.mp4", "h264", width=97, height=73, pix_fmt="yuv444p"),
    Asset("odd-av1.mp4", "av1", width=97, height=73),
    Asset("odd-mpeg4.avi", "mpeg4", width=97, height=73),
    Asset("odd-rotated.mp4", "h264", width=98, height=74, rotation=90),
    Asset("tenbit-h264.mp4", "h264", pix_fmt="yuv420p10le"),
    Asset("tenbit-hevc.mkv", "hevc", pix_fmt="yuv420p10le"),
    Asset("tenbit-av1.mp4", "av1", {"crf": "20"}, pix_fmt="yuv420p10le"),
    Asset("gray-hevc.mp4", "hevc", pix_fmt="gray"),
    Asset("gray-h264.mp4", "h264", pix_fmt="gray"),
    Asset("full-h264.mp4", "h264", pix_fmt="yuvj420p", is_full_range=True),
    Asset("alpha.webm", "vp9", {"auto-alt-ref": "0"}, pix_fmt="yuva420p"),
    Asset("alpha-prores.mov", "prores", pix_fmt="yuva444p10le", encoder="prores_ks"),
    Asset("rgb.mp4", "h264", pix_fmt="rgb24", encoder="libx264rgb"),
    Asset("interlaced.mkv", "h264", {"x264-params": "interlaced=1:keyint=12:bframes=2"}, num_frames=24, height=96),
    Asset("interlaced.ts", "h264", {"x264-params": "interlaced=1:keyint=12:bframes=2"}, num_frames=24, height=96),
    Asset("nobframes.avi", "mpeg4", {"bf": "0"}),
    Asset("long-gop.avi", "mpeg4", {"bf": "2", "g": "250"}, num_frames=60),
    Asset("vp8.webm", "vp8", {"deadline": "realtime", "cpu-used": "8", "g": "24"}, encoder="libvpx", num_frames=48),
    Asset("mpeg2.ts", "mpeg2video", {"g": "10", "bf": "2"}, num_frames=34),
    Asset("mpeg2.mpg", "mpeg2video", {"g": "10", "bf": "2"}, num_frames=34),
    Asset("mjpeg.avi", "mjpeg", pix_fmt="yuvj420p", is_full_range=True),
    Asset("raw.h264", "h264"),
    Asset("fragmented.mp4", "h264", mux_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    Asset("front-index.mp4", "h264", mux_options={"movflags": "faststart"}),
    Asset("sound.mp4", "h264", audio=True),
    Asset("sound.mkv", "h264", audio=True),
    Asset("sound.ts", "h264", audio=True),
    Asset("two-frames.mp4", "h264", num_frames=2),
    Asset("one-frame.webm", "vp9", num_frames=1),
)
BY_NAME = {asset.name: asset for asset in ASSETS}


def code_bits(number: int) -> list[bool]:
    """The number's bits and three check bits, row by row."""
    check = (number * 5 + 3) % 8
    return [bool(number >> i & 1) for i in range(NUMBER_BITS)] + [bool(check >> i & 1) for i in range(3)]


def draw_frame(number: int, width: int, height: int) -> np.ndarray:
    """RGB picture (height, width, 3) that carries the number, with some moving texture on it."""
    y, x = np.mgrid[:height, :width]
    bits = np.array(code_bits(number)).reshape(ROWS, COLUMNS)
    blocks = np.where(bits[y * ROWS // height, x * COLUMNS // width], BRIGHT, DARK)
    texture = 14 * np.sin((x + 3 * number) / 5) * np.cos((y - 2 * number) / 4)
    noise = np.random.default_rng(number).normal(0, 3, (height, width))
    tint = np.stack([texture + noise, -texture + noise, 0.5 * texture], axis=-1)
    return np.clip(blocks[..., None] + tint, 0, 255).astype(np.uint8)


def read_number(frame_CHW: np.ndarray) -> int:
    """The number in a picture (3, height, width).

    Raises:
        ValueError: a block is neither dark nor bright, or the check bits do not fit.
    """
    gray = frame_CHW.astype(np.float64).mean(axis=0)
    height, width = gray.shape
    bits: list[bool] = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            top, left = row * height // ROWS, column * width // COLUMNS
            middle = gray[top + height // 12 : top + height // 4, left + width // 16 : left + 3 * width // 16]
            value = float(middle.mean())
            if abs(value - 128) < 35:
                raise ValueError(f"block {row},{column} has {value:.0f}: neither dark nor bright")
            bits.append(value > 128)
    number = sum(1 << i for i in range(NUMBER_BITS) if bits[i])
    if bits != code_bits(number):
        raise ValueError(f"check bits do not fit number {number}")
    return number


def encode(path: Path, asset: Asset, frames: Sequence[np.ndarray] | None = None) -> None:
    """Write the asset; `frames` instead of numbered ones.

    Raises:
        av.error.FFmpegError: encoder or container do not allow it.
    """
    encoder, options = CODECS.get(asset.codec, (asset.codec, {}))
    options = {**options, **asset.options}
    pictures = frames or [draw_frame(i, asset.width, asset.height) for i in range(asset.num_frames)]
    turned = [np.rot90(picture, -asset.rotation // 90) for picture in pictures]
    with av.open(str(path), "w", options=asset.mux_options) as container:
        stream = container.add_stream(asset.encoder or encoder, rate=25, options=options)
        stream.height, stream.width = turned[0].shape[:2]
        stream.pix_fmt = asset.pix_fmt
        stream.codec_context.thread_count = 1
        if asset.is_full_range:
            stream.codec_context.color_range = 2
        if asset.ticks:
            stream.codec_context.time_base = Fraction(1, 1000)
        if asset.rotation:
            stream.set_display_rotation(asset.rotation)
        sound = container.add_stream("aac", rate=16000) if asset.audio else None
        for number, picture in enumerate(turned):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            if asset.pix_fmt != "rgb24":
                frame = frame.reformat(format=asset.pix_fmt, dst_color_range=2 if asset.is_full_range else 1)
            frame.pts = asset.ticks[number] if asset.ticks else number
            frame.time_base = Fraction(1, 1000) if asset.ticks else Fraction(1, 25)
            container.mux(stream.encode(frame))
            if sound is not None:
                container.mux(sound.encode(_tone(number)))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))


def remux(
    source: Path,
    target: Path,
    change: Callable[[int, av.Packet], bool] = lambda ordinal, packet: True,
    *,
    options: dict[str, str] | None = None,
) -> None:
    """Copy the video packets of a file; `change` may alter one, and says whether it stays."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for ordinal, packet in enumerate(p for p in old.demux(stream) if p.size):
            if change(ordinal, packet):
                packet.stream = copy
                new.mux_one(packet)


def cut_by_edit_list(source: Path, target: Path, num_frames: int) -> None:
    """An mp4 whose edit list hides the first frames: they are decoded, and not shown."""
    with av.open(str(source)) as old:
        step = round(1 / (25 * old.streams.video[0].time_base))

    def earlier(_: int, packet: av.Packet) -> bool:
        packet.pts -= num_frames * step
        packet.dts -= num_frames * step
        return True

    remux(source, target, earlier, options={"avoid_negative_ts": "disabled", "use_editlist": "1"})


def pack_bframes(source: Path, target: Path) -> None:
    """An avi in DivX's packed form, from one with single B-frames between the others.

    A packet then holds a P-frame and the B-frame after it, and a placeholder stands where the B-frame was.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in old.demux(stream) if p.size]
        copy = new.add_stream_from_template(stream)
        times = [dts for _, _, dts, _ in packets]
        packed: list[tuple[bytes, bool]] = []
        for data, _, _, is_key in packets:
            at = data.find(b"\x00\x00\x01\xb6")
            if data[at + 4] >> 6 == 2:
                before, was_key = packed[-1]
                packed[-1] = before + data, was_key
                packed.append((NOTHING_CODED, False))
            else:
                # the mark by which decoders know the packed form stands before the first picture of a GOP
                mark = b"\x00\x00\x01\xb2DivX503b1393p" if is_key else b""
                packed.append((data[:at] + mark + data[at:], is_key))
        for (data, is_key), time in zip(packed, times, strict=True):
            packet = av.Packet(data)
            packet.pts = packet.dts = time
            packet.is_keyframe = is_key
            packet.time_base = stream.time_base
            packet.stream = copy
            new.mux_one(packet)


def insert_placeholder(source: Path, target: Path, place: int) -> None:
    """An avi of MPEG-4 without B-frames, with a picture in which nothing is coded before packet number `place`."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        contents = [(bytes(p), p.is_keyframe) for p in old.demux(stream) if p.size]
        contents.insert(place, (NOTHING_CODED, False))
        copy = new.add_stream_from_template(stream)
        for time, (data, is_key) in enumerate(contents):
            packet = av.Packet(data)
            packet.pts = packet.dts = time
            packet.time_base, packet.is_keyframe, packet.stream = stream.time_base, is_key, copy
            new.mux_one(packet)


def hide_vp8_frame(source: Path, target: Path, number: int) -> None:
    """Clear the bit by which a VP8 frame is shown: it only refreshes references, as an alternate reference frame."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for ordinal, packet in enumerate(p for p in old.demux(stream) if p.size):
            data = bytearray(bytes(packet))
            if ordinal == number:
                data[0] &= ~0x10
            changed = av.Packet(bytes(data))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, copy
            new.mux_one(changed)


def _tone(number: int) -> av.AudioFrame:
    samples = (8000 * np.sin(np.arange(number * 640, (number + 1) * 640) / 8)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 16000, number * 640, Fraction(1, 16000)
    return frame


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Encoders write to standard error on their own; while making assets nothing of it is shown."""
    os.environ.setdefault("SVT_LOG", "0")
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else GENERATED
    folder.mkdir(parents=True, exist_ok=True)
    for asset in ASSETS:
        encode(folder / asset.name, asset)
