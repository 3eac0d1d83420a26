"""Cut a moment out of a video into a file of its own: H.264 in mp4, playable everywhere, without sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import torch.nn.functional as F
from torch import Tensor

from side4video.data.decode import open_video

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_TICKS = 90_000  # a second, in the clock of the written file
_CHUNK_BYTES = 64 * 2**20
_QUALITY = "20"


def cut_clip(source: Path, start_seconds: float, end_seconds: float, target: Path) -> None:
    """Write the frames of `source` from start to end, as long on the screen as they were there.

    The file is there complete or not at all.

    Raises:
        VideoError: the video cannot be read.
        InputError: the part is not in the video.
        OSError: the file cannot be written.
    """
    partial = target.with_name(f"{target.name}.partial")
    with open_video(source) as reader:
        span = reader.frame_range(start_seconds, end_seconds)
        times = reader.timestamps_seconds[span.start : span.stop].tolist()
        rate = Fraction(reader.info.average_fps or 25).limit_denominator(1001)
        end = min(end_seconds, reader.info.duration_seconds)
        end = end if end > times[-1] else times[-1] + 1 / float(rate)
        ticks = [round((time - times[0]) * _TICKS) for time in [*times, end]]
        step = max(1, _CHUNK_BYTES // (3 * reader.info.width * reader.info.height))
        chunks = (reader.read(span[first : first + step]) for first in range(0, len(span), step))
        try:
            _write(partial, chunks, ticks, rate)
            partial.replace(target)
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        finally:
            partial.unlink(missing_ok=True)


def _write(path: Path, chunks: Iterable[Tensor], ticks: Sequence[int], rate: Fraction) -> None:
    """Encode uint8 `frames_TCHW`, frame i shown from `ticks[i]` to `ticks[i + 1]`."""
    durations = {start: max(1, stop - start) for start, stop in pairwise(ticks)}
    numbers = iter(ticks)
    with av.open(str(path), "w", format="mp4") as container:
        # without B-frames each packet is one frame, in order
        stream = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY, "bf": "0"})
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.thread_count = 1

        def mux(packets: Iterable[Packet[VideoStream]]) -> None:
            for packet in packets:
                packet.duration = durations[packet.pts or 0]
                container.mux(packet)

        for frames_TCHW in chunks:
            # players want even sides
            padding = (0, frames_TCHW.shape[3] % 2, 0, frames_TCHW.shape[2] % 2)
            even_TCHW = F.pad(frames_TCHW.float(), padding, mode="replicate").byte() if any(padding) else frames_TCHW
            if not stream.codec_context.is_open:
                stream.height, stream.width = even_TCHW.shape[2:]
            for pixels_HWC in even_TCHW.permute(0, 2, 3, 1).contiguous().numpy():
                frame = av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")
                frame.pts, frame.time_base = next(numbers), Fraction(1, _TICKS)
                mux(stream.encode(frame))
        mux(stream.encode())


def clip_name(rank: int, source: Path, start_seconds: float) -> str:
    """A file name that sorts by rank and says where the moment came from."""
    minutes, seconds = divmod(start_seconds, 60)
    return f"{rank:03d}-{source.stem[:80]}-{int(minutes)}m{seconds:04.1f}s.mp4"
