"""Videos that a browser can play: as they are where every browser reads them, else written anew as H.264 in mp4."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.data.containers import MATROSKA, MP4, format_name, open_container, video_errors, video_stream
from side4video.data.sequence import FrameSequence

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

MP4_TYPE, WEBM_TYPE = "video/mp4", "video/webm"
# what Firefox, Chromium and Safari all play
_PLAYED = {
    MP4_TYPE: frozenset({"h264", "vp9", "av1"}),
    WEBM_TYPE: frozenset({"vp8", "vp9", "av1"}),
}
_PIXELS = frozenset({"yuv420p", "yuvj420p"})
# the player's clock starts with the file, ours with the first picture
_LATE_SECONDS = 0.05
_TICKS = 90_000
_MAX_HEIGHT = 480
_MAX_FPS = 30.0
_QUALITY = "27"


def browser_type(path: Path) -> str | None:
    """The media type of a file that browsers play as it is, and whose clock is ours; None for another.

    Raises:
        VideoError: it cannot be read.
    """
    with open_container(path) as container, video_errors(path):
        stream = video_stream(container, path)
        kind = format_name(container)
        with path.open("rb") as file:
            head = file.read(64)
        media_type = MP4_TYPE if kind == MP4 else WEBM_TYPE if kind == MATROSKA and b"webm" in head else None
        if media_type is None or stream.codec_context.codec.canonical_name not in _PLAYED[media_type]:
            return None
        if stream.pix_fmt not in _PIXELS:
            return None
        begins = float((stream.start_time or 0) * (stream.time_base or 0)) - (container.start_time or 0) / 1e6
        return media_type if abs(begins) <= _LATE_SECONDS else None


def write_playable(
    source: Path, target: Path, *, progress: Callable[[float], None], may_grow: Callable[[int], None]
) -> None:
    """Write a video anew as H.264 in mp4, at most 480 lines high, with the times that it had and without sound.

    `progress` hears which share is done, `may_grow` how large the file is so far; both may stop the work by raising.

    Raises:
        VideoError: the source cannot be read.
        OSError: the file cannot be written.
    """
    sequence = FrameSequence(source, fps=_MAX_FPS)
    try:
        with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream(
                "libx264", rate=Fraction(30), options={"crf": _QUALITY, "bf": "0", "preset": "veryfast"}
            )
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
            stream.codec_context.thread_count = 1
            # a key frame a second or so: a click in the timeline shows its picture at once
            stream.codec_context.gop_size = 30
            waiting: list[Packet[VideoStream]] = []

            def mux(packets: Iterable[Packet[VideoStream]]) -> None:
                # a packet lasts until the next: known when that is there
                for packet in packets:
                    if waiting:
                        last = waiting.pop()
                        last.duration = max(1, (packet.pts or 0) - (last.pts or 0))
                        container.mux(last)
                    waiting.append(packet)

            for chunk in sequence:
                small_TCHW = _shrunk(chunk.frames_TCHW)
                if not stream.codec_context.is_open:
                    stream.height, stream.width = small_TCHW.shape[2:]
                for time, pixels_HWC in zip(
                    chunk.times, small_TCHW.permute(0, 2, 3, 1).contiguous().numpy(), strict=True
                ):
                    frame = av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")
                    frame.pts, frame.time_base = round(time * _TICKS), Fraction(1, _TICKS)
                    mux(stream.encode(frame))
                progress(sequence.fraction)
                # nothing is there before the first packet
                may_grow(target.stat().st_size if target.exists() else 0)
            mux(stream.encode())
            for packet in waiting:
                packet.duration = max(1, round(sequence.duration_seconds * _TICKS) - (packet.pts or 0))
                container.mux(packet)
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error


def _shrunk(frames_TCHW: Tensor) -> Tensor:
    """Frames of even sides, at most `_MAX_HEIGHT` high (or wide, where they are upright)."""
    height, width = frames_TCHW.shape[2:]
    scale = min(1.0, _MAX_HEIGHT / min(height, width))
    size = tuple(max(2, 2 * math.ceil(side * scale / 2)) for side in (height, width))
    if size == (height, width):
        return frames_TCHW
    # a frame at a time: as floats a chunk of large ones would be four times as large
    parts = [
        F.interpolate(frame_CHW.unsqueeze(0).float(), size, mode="bilinear", antialias=True)
        .round()
        .clamp(0, 255)
        .byte()
        for frame_CHW in frames_TCHW
    ]
    return torch.cat(parts)
