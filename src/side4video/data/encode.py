"""Frames to H.264 in mp4, each at its own time, to the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction

import av

_CLOCK = 90_000


def encode_h264(
    frames: Iterable[tuple[float, av.VideoFrame]], *, crf: int, gop: int | None = None
) -> tuple[bytes, int]:
    """The file's bytes and its number of frames, of (seconds, frame) in order; all frames have one size, of even sides.

    `crf` is x264's quality, lower is better; `gop` the frames from one key frame to the next, by default x264's choice.
    A time that is not after the one before is moved behind it: two frames with one time stamp would be one frame.

    Raises:
        av.error.FFmpegError: what cannot be encoded.
    """
    buffer = io.BytesIO()
    clock, count, last = Fraction(1, _CLOCK), 0, -1
    # bitexact: no date of writing in the file
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count, context.time_base = 1, clock
        # with B-frames a small picture is not always encoded to the same bytes (x264's lookahead reads memory that
        # nobody wrote); without them a frame also decodes without those after it, and files are no larger
        groups = {} if gop is None else {"g": str(gop), "sc_threshold": "0"}
        stream.options = {"crf": str(crf), "preset": "veryfast", "bf": "0", **groups}
        for seconds, frame in frames:
            if count == 0:
                stream.width, stream.height = frame.width, frame.height
            last = max(last + 1, round(seconds * _CLOCK))
            frame.pts, frame.time_base = last, clock
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    return buffer.getvalue(), count
