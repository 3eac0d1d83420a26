"""The optional torchcodec backend: its decoder, held to our packet table.

torchcodec's exact mode is not always exact: with B-frames in avi, and where a key frame refreshes the picture only
little by little, it returns a neighbour of the frame asked for, and on H.264 with open GOPs it can stop with an error.
So every frame that it returns is checked by its time stamp, and where that is not the one asked for, PyAV reads
instead. Only mp4, mov, mkv and webm are given to it. Its wheel brings no FFmpeg: the system must have it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from side4video.data.containers import MATROSKA, MP4
from side4video.data.decode import VideoReader
from side4video.data.frames import check_indices
from side4video.errors import InputError, MissingExtraError

_FORMATS = frozenset({MP4, MATROSKA})


def load_torchcodec() -> Any:
    """The module `torchcodec.decoders`.

    Raises:
        MissingExtraError: torchcodec is not installed.
        InputError: it is installed and does not load, mostly because FFmpeg's libraries are missing.
    """
    try:
        return importlib.import_module("torchcodec.decoders")
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchcodec", "torchcodec") from error
    except (ImportError, RuntimeError, OSError) as error:
        raise InputError(
            "torchcodec is installed but does not load; it needs FFmpeg's shared libraries from the system "
            "(for example `apt-get install ffmpeg`); or use backend='pyav'"
        ) from error


class TorchcodecReader:
    """`VideoReader`'s promises, with torchcodec decoding where it returns the right frames.

    Raises:
        VideoError: the file is missing, empty, truncated, no video, or its frames are too large.
        MissingExtraError: torchcodec is not installed.
        InputError: it is installed and does not load.
    """

    def __init__(self, path: str | Path) -> None:
        decoders = load_torchcodec()
        self._reader = VideoReader(path)
        self.path, self.info = self._reader.path, self._reader.info
        self.timestamps_seconds = self._reader.timestamps_seconds
        self._decoder: Any = None
        if self.info.container in _FORMATS:
            try:
                self._decoder = decoders.VideoDecoder(
                    str(path), seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC"
                )
            except (RuntimeError, ValueError):  # what it cannot open, PyAV reads
                self._decoder = None

    def read(self, indices: Sequence[int]) -> Tensor:
        """As `VideoReader.read`.

        Raises:
            InputError: a number is not an integer, or out of range.
            VideoError: a frame, or one that it is predicted from, cannot be decoded or is damaged.
        """
        numbers = check_indices(indices, self.info.num_frames, self.path)
        frames_TCHW = self._read_checked(numbers) if numbers and self._decoder is not None else None
        return self._reader.read(numbers) if frames_TCHW is None else frames_TCHW

    def frame_range(self, start_seconds: float | None = None, end_seconds: float | None = None) -> range:
        """As `VideoReader.frame_range`.

        Raises:
            InputError: the window is empty or starts after the last frame.
        """
        return self._reader.frame_range(start_seconds, end_seconds)

    def close(self) -> None:
        """Release the file."""
        self._decoder = None
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_checked(self, numbers: list[int]) -> Tensor | None:
        try:
            batch = self._decoder.get_frames_at(numbers)
        except (RuntimeError, ValueError, IndexError):
            return None
        expected_seconds = self.timestamps_seconds[numbers] + self._reader.start_seconds
        seconds = np.asarray(batch.pts_seconds, dtype=np.float64)
        shape = (len(numbers), self.info.height, self.info.width, 3)
        if tuple(batch.data.shape) != shape or np.abs(seconds - expected_seconds).max() > 1e-4:
            return None
        return batch.data.permute(0, 3, 1, 2)
