"""Where live frames come from: a camera, a network address, a file or standard input, frame by frame at a rate.

Files are read strictly, as everywhere: damage is an error. A camera, an address or a pipe is read as it comes: a
picture that is damaged is left out, as the next one is on its way.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import av
import av.error
import numpy as np
import torch
from torch import Tensor

from side4video.data.containers import check_size, video_errors, video_stream
from side4video.data.limits import video_limits
from side4video.data.pixels import RgbConverter, orientation, turn
from side4video.data.sequence import FrameSequence
from side4video.errors import ConfigError, VideoError

SourceKind = Literal["camera", "address", "file", "pipe"]
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "rtp", "srt")
OPEN_SECONDS, READ_SECONDS = 10.0, 10.0
# nothing that comes over the network may name a file of this machine
_PROTOCOLS = "rtsp,rtsps,rtmp,rtmps,http,https,httpproxy,tls,tcp,udp,rtp,srtp,srt,crypto,hls"
_PIPE_SLICE_SECONDS = 0.2


@dataclass(frozen=True)
class Source:
    """A place that frames come from. `shown` is how to speak of it: a password in an address is left out."""

    kind: SourceKind
    address: str
    shown: str

    @property
    def is_live(self) -> bool:
        """Whether it goes on while nobody reads."""
        return self.kind in ("camera", "address")


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame, uint8 `pixels_CHW`: when it is shown, in seconds from the source's first frame, and when it came, on
    the clock of `time.monotonic`."""

    seconds: float
    arrived: float
    pixels_CHW: Tensor


def parse_source(word: str) -> Source:
    """A number or /dev/video*: a camera; an address with a scheme; `-`: standard input; else a file or folder.

    Raises:
        ConfigError: an address of another scheme, or a file that is not there.
    """
    if word == "-":
        return Source("pipe", word, "standard input")
    if word.isdecimal():
        return Source("camera", f"/dev/video{int(word)}", f"camera {int(word)}")
    if word.startswith("/dev/video"):
        return Source("camera", word, f"camera {word}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", word):
        parts = urlsplit(word)
        if parts.scheme.lower() not in SCHEMES:
            raise ConfigError(f"an address must begin with {', '.join(SCHEMES)}; got '{parts.scheme}://'")
        host = parts.netloc.rpartition("@")[2]
        return Source("address", word, urlunsplit((parts.scheme, host, parts.path, "", "")))
    if not Path(word).exists():
        raise ConfigError(
            f"no such source: '{word}'; it is a camera's number, an address (rtsp://...), a video file, or - for "
            "standard input"
        )
    return Source("file", word, word)


def read_frames(source: Source, *, fps: float, stop: Event) -> Iterator[LiveFrame]:
    """Its frames, `fps` a second at most, until it ends or `stop` is set.

    Raises:
        VideoError: it cannot be opened or read, or has broken off.
    """
    if source.kind == "file":
        return _of_file(source, fps, stop)
    return _of_container(source, fps, stop)


def _of_file(source: Source, fps: float, stop: Event) -> Iterator[LiveFrame]:
    for chunk in FrameSequence(source.address, fps=fps):
        for seconds, pixels_CHW in zip(chunk.times, chunk.frames_TCHW, strict=True):
            if stop.is_set():
                return
            yield LiveFrame(seconds, time.monotonic(), pixels_CHW)


def _of_container(source: Source, fps: float, stop: Event) -> Iterator[LiveFrame]:
    with ExitStack() as stack:
        stack.enter_context(video_errors(source.shown, "broke off"))
        with video_errors(source.shown, "cannot be opened"):
            container: Any = stack.enter_context(closing(_open(source, stop)))
            stream = video_stream(container, source.shown)
        convert, size, how = RgbConverter(), (0, 0), (False, False, False)
        usual = 1 / float(stream.average_rate or stream.guessed_rate or fps)
        origin: float | None = None
        last = upcoming = 0.0
        for frame in _decoded(container, stream, stop):
            if size == (0, 0):
                size, how = (frame.width, frame.height), orientation(frame)
                check_size(source.shown, *size, video_limits())
            stamp = None if frame.pts is None else float(frame.pts * frame.time_base)
            origin = stamp if origin is None else origin
            # a clock that is missing or jumps is replaced by the usual distance of two frames
            seconds = last + usual if stamp is None or origin is None else stamp - origin
            if not last <= seconds <= last + 60:
                origin = None if stamp is None else stamp - last - usual
                seconds = last + usual
            last = seconds
            if seconds >= upcoming - 1e-3:
                upcoming = (int((seconds + 1e-3) * fps + 1e-9) + 1) / fps
                # copied: the converter's picture lives as long as its frame
                pixels_HWC = np.array(turn(convert(frame, *size), how))
                yield LiveFrame(seconds, time.monotonic(), torch.from_numpy(pixels_HWC).permute(2, 0, 1))


def _open(source: Source, stop: Event) -> Any:
    limits = (OPEN_SECONDS, READ_SECONDS)
    if source.kind == "pipe":
        # what comes through the pipe may not name files either
        return av.open(_Pipe(sys.stdin.fileno(), stop), "r", container_options={"protocol_whitelist": "none"})
    if source.kind == "camera":
        if not Path(source.address).exists():
            raise VideoError(source.shown, f"no such camera ({source.address} is not there)")
        return av.open(source.address, "r", format="v4l2", timeout=limits)
    options = {"protocol_whitelist": _PROTOCOLS}
    if source.address.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # over UDP, what is lost comes as damaged pictures
    return av.open(source.address, "r", timeout=limits, options=options)


def _decoded(container: Any, stream: Any, stop: Event) -> Iterator[Any]:
    """Pictures until the end; packets that the decoder refuses, and pictures that are damaged, are left out."""
    for packet in container.demux(stream):
        if stop.is_set():
            return
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


class _Pipe:
    """Standard input for PyAV: waits in slices, so that a stop is heard while nothing comes."""

    def __init__(self, descriptor: int, stop: Event) -> None:
        self._descriptor = descriptor
        self._stop = stop
        self.name = "standard input"

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end, or when stopped."""
        while not self._stop.is_set():
            ready, _, _ = select.select([self._descriptor], [], [], _PIPE_SLICE_SECONDS)
            if ready:
                return os.read(self._descriptor, size)
        return b""
