"""Cut a moment out of a video into a file of its own: H.264 in mp4, playable everywhere, without sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import av.error
import torch.nn.functional as F

from side4video.data.decode import open_video

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
        times = reader.timestamps_seconds[span.start : span.stop]
        end = min(end_seconds, reader.info.duration_seconds)
        step = max(1, _CHUNK_BYTES // (3 * reader.info.width * reader.info.height))
        try:
            with av.open(str(partial), "w", format="mp4") as container:
                rate = Fraction(reader.info.average_fps or 25).limit_denominator(1001)
                stream = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY, "bf": "0"})
                # players want even sides
                stream.width, stream.height = (side + side % 2 for side in (reader.info.width, reader.info.height))
                stream.pix_fmt = "yuv420p"
                stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
                stream.codec_context.thread_count = 1
                stops = [*times[1:], max(end, times[-1] + 1 / float(rate) / 2)]
                for first in range(0, len(span), step):
                    frames_TCHW = reader.read(span[first : first + step])
                    padding = (0, stream.width - reader.info.width, 0, stream.height - reader.info.height)
                    if any(padding):
                        frames_TCHW = F.pad(frames_TCHW.float(), padding, mode="replicate").byte()
                    for offset, pixels_HWC in enumerate(frames_TCHW.permute(0, 2, 3, 1).contiguous().numpy()):
                        frame = av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")
                        shown, gone = times[first + offset], stops[first + offset]
                        frame.pts = round((shown - times[0]) * _TICKS)
                        frame.duration = max(1, round((gone - shown) * _TICKS))
                        frame.time_base = Fraction(1, _TICKS)
                        container.mux(stream.encode(frame))
                container.mux(stream.encode())
            partial.replace(target)
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        finally:
            partial.unlink(missing_ok=True)


def clip_name(rank: int, source: Path, start_seconds: float) -> str:
    """A file name that sorts by rank and says where the moment came from."""
    minutes, seconds = divmod(start_seconds, 60)
    return f"{rank:03d}-{source.stem[:80]}-{int(minutes)}m{seconds:04.1f}s.mp4"
