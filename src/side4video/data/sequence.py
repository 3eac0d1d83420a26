"""A whole video from first frame to last, at a sampling rate, decoded in one pass through the file.

`VideoReader` lists all packets before it reads frames, which is right for a few frames of a clip and wrong for an hour
of footage: here packets are decoded as they come, frames leave in the order of display, and what is held is one chunk.
Frames, their times and the damage that is an error are the reader's.

Sampling takes the first frame at or after each multiple of `1 / fps`, and no frame twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av.error
import numpy as np
import torch
from torch import Tensor

from side4video.data.containers import (
    AVI,
    MPEG_TS,
    check_size,
    format_name,
    open_container,
    short_reason,
    video_errors,
    video_stream,
)
from side4video.data.frame_folder import FrameFolderReader
from side4video.data.limits import video_limits
from side4video.data.packets import NEEDS_KEY_SHOWN_FIRST, codec_name, demux
from side4video.data.pixels import RgbConverter, orientation, turn
from side4video.data.truncation import ends_inside_packet
from side4video.errors import InputError, VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_CHUNK_FRAMES = 32
MAX_CHUNK_BYTES = 64 * 2**20
# a frame counts as at its grid point when it is this close before it: clocks are rounded
_CLOCK_SECONDS = 1e-3


@dataclass(frozen=True)
class FrameChunk:
    """T frames in order: `times` in seconds from the video's first frame, `frames_TCHW` uint8 RGB, upright."""

    times: tuple[float, ...]
    frames_TCHW: Tensor


class FrameSequence:
    """The frames of a video file or a folder of frames; iterate once over its chunks.

    `fps` is how many frames a second are taken at most, None takes all. A video that would give fewer than
    `min_frames` at that rate (by the length that its header states) is sampled faster, so that it gives as many if it
    has them; `sampling_fps` says the rate, from the first chunk on. After the last chunk `duration_seconds` is the
    video's length. `fraction` is how much of the file has been read.

    Raises:
        InputError: a rate that is not positive.
        VideoError: while iterating: the video cannot be read, or a frame of it is damaged.
    """

    def __init__(
        self, path: str | Path, *, fps: float | None = None, min_frames: int = 0, frame_pattern: str | None = None
    ) -> None:
        if fps is not None and not 0 < fps < float("inf"):
            raise InputError(f"fps must be a positive number; got {fps}")
        self.path = Path(path)
        self.sampling_fps = fps
        self.duration_seconds = 0.0
        self.fraction = 0.0
        self._min_frames = min_frames
        self._frame_pattern = frame_pattern
        self._next = 0.0

    def __iter__(self) -> Iterator[FrameChunk]:
        if self.path.is_dir():
            return self._of_folder()
        return self._of_file()

    def _of_folder(self) -> Iterator[FrameChunk]:
        reader = FrameFolderReader(self.path, frame_pattern=self._frame_pattern)
        self._choose_rate(reader.info.duration_seconds)
        wanted = [i for i, time in enumerate(reader.timestamps_seconds.tolist()) if self._takes(time)]
        step = _chunk_frames(reader.info.height, reader.info.width)
        for first in range(0, len(wanted), step):
            part = wanted[first : first + step]
            yield FrameChunk(tuple(float(reader.timestamps_seconds[i]) for i in part), reader.read(part))
            self.fraction = (first + len(part)) / len(wanted)
        self.duration_seconds = reader.info.duration_seconds

    def _of_file(self) -> Iterator[FrameChunk]:
        with ExitStack() as stack:
            container = stack.enter_context(open_container(self.path))
            stack.enter_context(video_errors(self.path))
            stream = video_stream(container, self.path)
            self._choose_rate(_stated_seconds(container, stream))
            convert, size, how = RgbConverter(), (0, 0), (False, False, False)
            times: list[float] = []
            pictures: list[np.ndarray] = []
            most, is_first = 1, True
            for time, frame in self._decode(container, stream):
                if is_first:
                    is_first, size, how = False, (frame.width, frame.height), orientation(frame)
                    check_size(self.path, *size, video_limits())
                    most = _chunk_frames(frame.height, frame.width)
                if self._takes(time):
                    times.append(time)
                    # copied: the converter's picture lives as long as its frame
                    pictures.append(np.array(turn(convert(frame, *size), how)))
                if len(times) == most:
                    yield _chunk(times, pictures)
                    times, pictures = [], []
            if is_first:
                raise VideoError(self.path, "no frames")
            if times:
                yield _chunk(times, pictures)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
        """Time and picture of every frame that is shown, in the order of display."""
        context, tick = stream.codec_context, float(stream.time_base or 0)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        clock = _Clock(is_avi=format_name(container) == AVI, usual=1 / (rate * tick) if rate and tick else 1)
        has_started = codec_name(stream) not in NEEDS_KEY_SHOWN_FIRST
        first_key: int | None = None
        size = self.path.stat().st_size
        for ordinal, packet in _numbered(demux(container, stream, self.path), self.path, format_name(container)):
            if packet is not None:
                self.fraction = min(1.0, max(self.fraction, (packet.pos or 0) / size))
                if first_key is None and not packet.is_keyframe:
                    continue
                first_key = ordinal if first_key is None else first_key
                clock.enter(ordinal, packet)
                packet.pts = packet.dts = ordinal  # what a decoded frame is recognised by
            try:
                frames = context.decode(packet)
            except av.error.FFmpegError as error:
                raise VideoError(self.path, f"a frame cannot be decoded: {short_reason(error)}") from error
            for frame in frames:
                has_started = has_started or frame.pts == first_key
                if frame.pts is None or not has_started or clock.hides(frame.pts):
                    continue
                if frame.is_corrupt:
                    raise VideoError(self.path, f"damaged picture at packet {frame.pts}")
                time = clock.time_of(frame.pts) * tick
                self.duration_seconds = time + clock.last_duration * tick
                yield time, frame
        if first_key is None:
            raise VideoError(self.path, "no key frame to start from" if clock.entered else "no frames")
        self.fraction = 1.0

    def _choose_rate(self, seconds: float) -> None:
        if self.sampling_fps is not None and 0 < seconds * self.sampling_fps < self._min_frames:
            self.sampling_fps = self._min_frames / seconds

    def _takes(self, time: float) -> bool:
        if self.sampling_fps is None:
            return True
        if time < self._next - _CLOCK_SECONDS:
            return False
        self._next = (int((time + _CLOCK_SECONDS) * self.sampling_fps + 1e-9) + 1) / self.sampling_fps
        return True


class _Clock:
    """When frames are shown, in ticks from the first one, by the packet that each came from.

    As `packets.timestamps`: where only times of decoding are stored (avi), the n-th frame is shown at the n-th of them;
    where there are none, at the usual distance; where the clock jumps back, time goes on from the last frame.
    """

    def __init__(self, *, is_avi: bool, usual: float) -> None:
        self.entered = 0
        self.last_duration = usual
        self._is_avi, self._usual = is_avi, usual
        self._packets: dict[int, tuple[int | None, int | None, bool]] = {}
        self._decoding: deque[int] = deque()
        self._first: int | None = None
        self._shift = 0.0
        self._last = 0.0
        self._shown = 0

    def enter(self, ordinal: int, packet: Packet[VideoStream]) -> None:
        """A packet goes into the decoder, with the times that the file gives it."""
        self.entered += 1
        self._packets[ordinal] = packet.pts, packet.duration, packet.is_discard
        if packet.dts is not None and not packet.is_discard:
            self._decoding.append(packet.dts)

    def hides(self, ordinal: int) -> bool:
        """Whether an edit list hides the frame."""
        return ordinal not in self._packets or self._packets[ordinal][2]

    def time_of(self, ordinal: int) -> float:
        """Ticks from the first frame; ask once for each frame, in the order of display."""
        pts, duration, _ = self._packets.pop(ordinal)
        for passed in [other for other in self._packets if other < ordinal - 256]:
            del self._packets[passed]  # a packet that never became a frame
        decoding = self._decoding.popleft() if self._decoding else None
        stamp = decoding if self._is_avi else pts
        step = duration or self._usual
        if stamp is None:
            time = self._last + step if self._shown else 0.0
        else:
            self._first = stamp if self._first is None else self._first
            time = stamp - self._first + self._shift
            if self._shown and time < self._last:
                self._shift += self._last + step - time
                time = self._last + step
        self._last = time
        self._shown += 1
        self.last_duration = step
        return time


def _numbered(
    packets: Iterator[Packet[VideoStream]], path: Path, container: str
) -> Iterator[tuple[int, Packet[VideoStream] | None]]:
    """Packets with their ordinals, then None, which empties the decoder; a last packet that was cut is no frame.

    Raises:
        VideoError: a packet of which a part is missing.
    """
    waiting: Packet[VideoStream] | None = None
    ordinal, is_damaged = -1, False
    for packet in packets:
        if waiting is not None:
            # as in `packets.py`: a gap in MPEG-TS shows one packet early, and looks like a join before a key frame
            if is_damaged and not (container == MPEG_TS and packet.is_keyframe):
                raise VideoError(path, f"damaged packet {ordinal}")
            yield ordinal, waiting
        is_damaged = packet.is_corrupt if container != MPEG_TS else waiting is not None and waiting.is_corrupt
        waiting, ordinal = packet, ordinal + 1
    is_cut = waiting is not None and (waiting.is_corrupt or (container == MPEG_TS and ends_inside_packet(path)))
    if waiting is not None and not is_cut:
        yield ordinal, waiting
    yield ordinal + 1, None


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """The length that the header states; 0 when it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _chunk_frames(height: int, width: int) -> int:
    return max(1, min(MAX_CHUNK_FRAMES, MAX_CHUNK_BYTES // (3 * height * width)))


def _chunk(times: list[float], pictures: list[np.ndarray]) -> FrameChunk:
    return FrameChunk(tuple(times), torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
