"""Opens a video file safely: a local regular file, a format from a list, one decoder thread, no noise.

FFmpeg would also open playlists, network addresses, text files (as ANSI art) and single pictures. None of these is a
video here, and a playlist could make it read other files; so the list of formats is closed and only files are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
from av.container import Flags
from av.stream import Disposition

from side4video.data.limits import VideoLimits, too_large, video_limits
from side4video.data.truncation import missing_bytes
from side4video.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

MP4, MATROSKA, AVI, MPEG_TS = "mov", "matroska", "avi", "mpegts"

# first name of each demuxer that reads video, and nothing that reads text, pictures, playlists or devices
_FORMATS = (
    *(MP4, MATROSKA, AVI, MPEG_TS, "mpeg", "mpegvideo", "flv", "asf", "ogg", "gif", "mxf", "nut", "rm", "dv", "ivf"),
    *("h264", "hevc", "m4v", "obu", "av1", "yuv4mpegpipe", "wtv", "swf", "mjpeg", "apng", "h263", "vc1"),
)
_INVENT_TIMES = int(Flags.gen_pts.value)
_NO_EXPLANATION = "cannot be decoded"
# what FFmpeg says, by its error class, in words that a user can act on
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (av.error.DecoderNotFoundError, "unsupported codec"),
    (av.error.DemuxerNotFoundError, "not a video file"),
    (av.error.PermissionError, "no permission to read it"),
    (av.error.PatchWelcomeError, "unsupported codec feature"),
    # invalid data, and the invalid argument that a format outside the list is
    (ValueError, "damaged, truncated or not a video"),
    (EOFError, "damaged, truncated or not a video"),
)


def short_reason(error: BaseException, during: str = _NO_EXPLANATION) -> str:
    """A short lower-case clause for an error of FFmpeg."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    text = getattr(error, "strerror", None) or str(error)
    return f"{during}: {text}" if text else during


@contextlib.contextmanager
def video_errors(path: str | Path, during: str = _NO_EXPLANATION) -> Generator[None]:
    """Turn what FFmpeg raises inside into `VideoError`; our own errors and Python's pass unchanged.

    Raises:
        VideoError: instead of any FFmpeg error, and of the few Python errors that PyAV raises for damaged headers.
    """
    try:
        yield
    except VideoError:
        raise
    except (av.error.FFmpegError, UnicodeError, OverflowError, MemoryError) as error:
        raise VideoError(path, short_reason(error, during)) from error


def check_file(path: str | Path) -> Path:
    """The path, when it names a regular file that is neither empty nor cut off.

    Raises:
        VideoError: nothing is there, or a folder, a device, an empty file or one that is shorter than it says.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise VideoError(path, "no such file")
        if not file.is_file():
            raise VideoError(path, "not a regular file")
        if file.stat().st_size == 0:
            raise VideoError(path, "empty file")
        missing = missing_bytes(file)
    except (OSError, ValueError) as error:  # a name that the system refuses: too long, or with a zero byte
        if isinstance(error, VideoError):
            raise
        raise VideoError(path, f"cannot be reached: {getattr(error, 'strerror', None) or error}") from error
    if missing:
        raise VideoError(path, f"truncated: its last {missing} bytes are missing")
    return file


def open_container(path: str | Path) -> InputContainer:
    """The file's container, with invented time stamps switched off.

    Raises:
        VideoError: not a file, empty, not of a known video format, or damaged.
    """
    file = check_file(path)
    options = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
    with video_errors(path, "cannot be opened"):
        container = av.open(f"file:{file.absolute()}", "r", metadata_errors="replace", container_options=options)
        # PyAV asks FFmpeg to make up missing time stamps; we want to know that they are missing
        container.flags &= ~_INVENT_TIMES
    return container


def format_name(container: InputContainer) -> str:
    """First name of the container's format, such as ``"mov"`` or ``"matroska"``."""
    return container.format.name.split(",", 1)[0]


def video_stream(container: InputContainer, path: str | Path, *, limits: VideoLimits | None = None) -> VideoStream:
    """The container's video stream, ready for one decoder thread; cover pictures do not count.

    Raises:
        VideoError: no video stream, no decoder for it, or a frame larger than allowed.
    """
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        audio = bool(container.streams.audio) or bool(container.streams.video)
        raise VideoError(path, "no video stream, audio only" if audio else "no video stream")
    best = container.streams.best("video")
    stream = next((stream for stream in streams if stream is best), streams[0])
    # without a decoder PyAV gives a stream that has no codec context
    context: VideoCodecContext | None = getattr(stream, "codec_context", None)
    if context is None:
        raise VideoError(path, "unsupported codec")
    limits = limits or video_limits()
    check_size(path, context.width, context.height, limits)
    context.thread_count = 1
    # for what only the stream itself tells; a decoder counts whole blocks of up to 64 x 64
    context.options = {"max_pixels": str(limits.frame_pixels + 128 * limits.frame_side + 2**12)}
    for other in container.streams:
        if other is not stream and hasattr(other, "discard"):
            other.discard = type(other.discard).all
    return stream


def check_size(path: str | Path, width: int, height: int, limits: VideoLimits) -> None:
    """Refuse frames that are larger than any camera's.

    Raises:
        VideoError: a side or the number of pixels is beyond its limit.
    """
    reason = too_large(width, height, limits)
    if reason is not None:
        raise VideoError(path, reason)


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)
