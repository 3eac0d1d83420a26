"""Frames of a video by number, exact to the frame, as uint8 RGB.

`open_video` gives a reader for a video file or a folder of frames. A reader lists the packets once (`packets.py`),
jumps to the key frame before what is asked for, and decodes forward with one thread: parallelism belongs to the
loader's workers. A frame that cannot be read is an error, never another frame.

Shapes: T frames asked for, in the order asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import av.error
import numpy as np
import torch
from torch import Tensor

from side4video.data.containers import (
    check_size,
    format_name,
    open_container,
    short_reason,
    video_errors,
    video_stream,
)
from side4video.data.frame_folder import FrameFolderReader
from side4video.data.frames import VideoInfo, check_indices, frame_range
from side4video.data.limits import video_limits
from side4video.data.packets import PacketTable, is_progressive, packets_from, read_table, timestamps
from side4video.data.pixels import RgbConverter, degrees, orientation, turn
from side4video.errors import InputError, MissingExtraError, VideoError

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from side4video.data.torchcodec_reader import TorchcodecReader

MAX_HELD_BYTES = 64 * 2**20
"""Packets of a video up to this size stay in memory while it is open, so that no jump in it needs a seek."""

Backend = Literal["auto", "pyav", "torchcodec"]
# codecs where a packet that says "not a reference" is needed by no other frame, whatever the stream's layers
_SKIPS_EXACTLY = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})


class VideoReader:
    """Reads frames of one video file. Use it as a context manager; not for sharing between threads or processes.

    `timestamps_seconds` holds the time of each frame, in the order of display, the first frame being at 0;
    `start_seconds` is the first frame's own time in the file. Sizes are limited as `limits.video_limits` says, or by
    `max_side` and `max_pixels`.

    Raises:
        VideoError: the file is missing, empty, truncated, no video, or its frames are too large or too many.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_side: int | None = None,
        max_pixels: int | None = None,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self.path = str(path)
        limits = video_limits()
        limits = replace(
            limits, frame_side=max_side or limits.frame_side, frame_pixels=max_pixels or limits.frame_pixels
        )
        self._container = open_container(path)
        try:
            with video_errors(path):
                self._stream = video_stream(self._container, path, limits=limits)
                self._context = self._stream.codec_context
                self._table = read_table(
                    self._container, self._stream, path, max_held_bytes=max_held_bytes, max_packets=limits.frames
                )
                self._convert = RgbConverter()
                self._size, self._orientation = (0, 0), (False, False, False)
                self._decode([self._table.frames[0]], self._look_at_first)
                self.timestamps_seconds, self.info = self._describe()
                check_size(path, self.info.width, self.info.height, limits)
        except BaseException:
            self._container.close()
            raise

    def read(self, indices: Sequence[int]) -> Tensor:
        """The frames with these numbers (from 0, in the order of display) as uint8 `frames_TCHW`, RGB, upright.

        Numbers may repeat and come in any order; each frame is decoded and converted once. The tensor is laid out
        channels last, as the decoder writes it. A frame whose size differs from the first frame's is scaled to it.

        Raises:
            InputError: a number is not an integer, or out of range.
            VideoError: a frame, or one that it is predicted from, cannot be decoded or is damaged.
        """
        numbers = check_indices(indices, self.info.num_frames, self.path)
        frames_THWC = np.empty((len(numbers), self.info.height, self.info.width, 3), np.uint8)
        slots: dict[int, list[int]] = {}
        for slot, number in enumerate(numbers):
            slots.setdefault(self._table.frames[number], []).append(slot)

        def convert(ordinal: int, frame: VideoFrame) -> None:
            frames_THWC[slots[ordinal]] = self._to_rgb(frame)

        with video_errors(self.path):
            self._decode(list(slots), convert)
        return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)

    def frame_range(self, start_seconds: float | None = None, end_seconds: float | None = None) -> range:
        """Numbers of the frames shown from `start_seconds` up to, not including, `end_seconds`; never empty.

        Raises:
            InputError: the window is empty or starts after the last frame.
        """
        return frame_range(self.timestamps_seconds, start_seconds, end_seconds, self.path)

    def close(self) -> None:
        """Release the file and the packets."""
        self._container.close()
        self._table = PacketTable()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _describe(self) -> tuple[np.ndarray, VideoInfo]:
        ticks = timestamps(self._table, format_name(self._container))
        tick_seconds = float(self._stream.time_base or 0)
        seconds = (ticks - ticks[0]) * tick_seconds
        self.start_seconds = float(ticks[0]) * tick_seconds
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        last_seconds = self._table.durations[self._table.frames[-1]] * tick_seconds or (1 / rate if rate else 0.0)
        duration = float(seconds[-1]) + last_seconds
        width, height = self._size[::-1] if self._orientation[0] else self._size
        info = VideoInfo(
            path=self.path,
            num_frames=len(self._table.frames),
            width=width,
            height=height,
            average_fps=len(self._table.frames) / duration if duration else rate,
            duration_seconds=duration,
            codec=self._context.codec.canonical_name,
            container=format_name(self._container),
            rotation=degrees(self._orientation),
        )
        return seconds, info

    def _look_at_first(self, _ordinal: int, frame: VideoFrame) -> None:
        self._size = frame.width, frame.height
        self._orientation = orientation(frame)

    def _to_rgb(self, frame: VideoFrame) -> np.ndarray:
        return turn(self._convert(frame, *self._size), self._orientation)

    def _decode(self, ordinals: list[int], deliver: Callable[[int, VideoFrame], None]) -> None:
        """Give each of these frames to `deliver`, decoding from each key frame at most once."""
        pending = sorted(ordinals)
        while pending:
            starts = [self._table.start_for(ordinal) for ordinal in pending]
            stop = 1
            while stop < len(pending) and starts[stop] <= pending[stop - 1] + 1:
                stop += 1
            start = min(starts[:stop])  # a frame shown before a key frame but decoded after it needs an earlier one
            missing = self._decode_run(start, pending[:stop], deliver)
            if missing == pending[:stop] and self._table.forget_start(start):
                continue  # decoding cannot start there after all
            if missing:
                number = self._table.frames.index(missing[0])
                raise VideoError(self.path, f"frame {number} cannot be decoded")
            pending = pending[stop:]

    def _decode_run(self, start: int, wanted: list[int], deliver: Callable[[int, VideoFrame], None]) -> list[int]:
        """Decode from a key frame to the last of `wanted`; what did not come out is returned.

        Nothing is delivered before the key frame itself has come out: if it does not, it was none.
        """
        table, context = self._table, self._context
        # before the first key frame there is nothing else to start from
        is_first = start == table.starts[0]
        start_rank = -1 if is_first else table.ranks[start] or 0
        shown_rank = -1.0
        missing, last = set(wanted), wanted[-1]
        has_started = is_first or table.discards[start]
        may_skip = context.name in _SKIPS_EXACTLY and is_progressive(context)

        def take(packet: Packet[VideoStream] | None, ordinal: int | None) -> bool:
            nonlocal has_started, shown_rank
            try:
                frames = context.decode(packet)
            except av.error.FFmpegError as error:
                # frames that are shown before the key frame are not ours to decode
                if ordinal is not None and (table.ranks[ordinal] or 0) < start_rank:
                    return True
                raise VideoError(self.path, f"a frame cannot be decoded: {short_reason(error)}") from error
            for frame in frames:
                came = frame.pts
                if came is None or (table.ranks[came] or 0) < start_rank:
                    continue
                has_started = has_started or came == start
                if not has_started:
                    return False
                if frame.is_corrupt:
                    raise VideoError(self.path, f"damaged picture at packet {came}")
                rank = table.ranks[came]
                if rank is not None:
                    if rank < shown_rank:
                        raise VideoError(self.path, "its times contradict the order that its pictures are shown in")
                    shown_rank = rank
                if came in missing:
                    missing.discard(came)
                    deliver(came, frame)
            return True

        context.flush_buffers()
        is_skipping = False
        for ordinal, packet in packets_from(table, self._container, self._stream, self.path, start):
            skip = may_skip and ordinal not in missing
            if skip != is_skipping:
                context.skip_frame = "NONREF" if skip else "DEFAULT"
                is_skipping = skip
            if table.damaged[ordinal]:
                raise VideoError(self.path, f"damaged packet {ordinal}")
            if not take(packet, ordinal):
                return wanted
            if ordinal >= last:
                break
        context.skip_frame = "DEFAULT"
        take(None, None)
        context.flush_buffers()
        return sorted(missing)


def probe_video(path: str | Path) -> VideoInfo:
    """What is known of a video, after listing its packets and decoding its first frame.

    Raises:
        VideoError: it cannot be read.
    """
    with VideoReader(path) as reader:
        return reader.info


def open_video(
    path: str | Path, *, frame_pattern: str | None = None, backend: Backend = "pyav"
) -> VideoReader | FrameFolderReader | TorchcodecReader:
    """A reader for a video file, or for a folder of numbered frames.

    `frame_pattern` names the files of a frame folder, such as ``img_{:05d}.jpg``; None finds it. `backend`: `pyav`
    needs nothing else; `torchcodec` is an extra; `auto` takes torchcodec when it is installed and loads. Both give the
    same frames (colours may differ by rounding), because what torchcodec cannot read exactly is left to PyAV.

    Raises:
        VideoError: the path cannot be read.
        InputError: the backend is none of the three, or torchcodec was asked for and does not load.
        MissingExtraError: torchcodec was asked for and is not installed.
    """
    if backend not in ("auto", "pyav", "torchcodec"):
        raise InputError(f"backend must be 'pyav', 'torchcodec' or 'auto'; got {backend!r}")
    if Path(path).is_dir():
        return FrameFolderReader(path, frame_pattern=frame_pattern)
    if backend == "pyav":
        return VideoReader(path)
    from side4video.data.torchcodec_reader import TorchcodecReader

    try:
        return TorchcodecReader(path)
    except (MissingExtraError, InputError) as error:
        if backend == "torchcodec" or isinstance(error, VideoError):
            raise
        return VideoReader(path)
