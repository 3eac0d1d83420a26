"""Embedded windows in a file that other programs read: safetensors, or parquet with the extra.

Both say where each window is from, when its frames are shown, and which model made it.

safetensors: `frames_VTE` (padded with zeros), `mask_VT` (true where there is a frame), `times_VT` (seconds), `clips_VE`
(the mean of each window's frames), `starts_V`, `ends_V`, `fps_V`, and `videos_V`, the place of each window's video in
the metadata's `paths`. parquet: a row a window with the same as columns, and lists instead of tensors. The metadata
holds JSON texts in both: `paths`, `model`, `windows`, `task`, `run`.

Shapes: V, windows; T, frames of the longest; E, width of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.errors import ConfigError, MissingExtraError
from side4video.search.embedding import EmbeddedWindow, WindowSettings
from side4video.training.files import write_bytes

SUFFIXES = (".safetensors", ".parquet")
Videos = Sequence[tuple[str, Sequence[EmbeddedWindow]]]


def check_vectors_path(path: Path) -> None:
    """Find out before the work whether vectors can be written in the form that the name asks for.

    Raises:
        ConfigError: another suffix.
        MissingExtraError: parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"vectors go into a file that ends in {' or '.join(SUFFIXES)}; got '{path}'")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401 # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None


def write_vectors(
    path: Path, videos: Videos, *, model: Mapping[str, Any], settings: WindowSettings, task: str, run: str
) -> None:
    """Write the windows of each video, by its path.

    Raises:
        OSError: the file cannot be written; what was there before still is.
    """
    metadata = {
        "format": "side4video vectors 1",
        "paths": json.dumps([name for name, _ in videos], ensure_ascii=False),
        "model": json.dumps(dict(model), ensure_ascii=False),
        "windows": json.dumps(settings.as_json()),
        "task": task,
        "run": run,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".parquet":
        write_bytes(path, _parquet(videos, metadata))
    else:
        write_bytes(path, safetensors.torch.save(_tensors(videos), metadata=metadata))


def _tensors(videos: Videos) -> dict[str, Tensor]:
    windows = [window for _, own in videos for window in own]
    longest = max(len(window.times) for window in windows)

    def padded(values: Tensor) -> Tensor:
        return F.pad(values, (*(0, 0) * (values.dim() - 1), 0, longest - len(values)))

    lengths_V = torch.tensor([len(window.times) for window in windows])
    return {
        "frames_VTE": torch.stack([padded(window.frames_TE) for window in windows]),
        "clips_VE": torch.stack([window.frames_TE.mean(0) for window in windows]),
        "mask_VT": torch.arange(longest).unsqueeze(0) < lengths_V.unsqueeze(1),
        "times_VT": torch.stack([padded(torch.tensor(window.times, dtype=torch.float64)) for window in windows]),
        "starts_V": torch.tensor([window.start_seconds for window in windows], dtype=torch.float64),
        "ends_V": torch.tensor([window.end_seconds for window in windows], dtype=torch.float64),
        "fps_V": torch.tensor([window.fps for window in windows], dtype=torch.float64),
        "videos_V": torch.tensor([place for place, (_, own) in enumerate(videos) for _ in own]),
    }


def _parquet(videos: Videos, metadata: Mapping[str, str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "path": name,
            "start": window.start_seconds,
            "end": window.end_seconds,
            "fps": window.fps,
            "clip": window.frames_TE.mean(0).tolist(),
            "times": list(window.times),
            "frames": window.frames_TE.tolist(),
        }
        for name, own in videos
        for window in own
    ]
    vector = pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema(
        [
            ("path", pyarrow.string()),
            *((name, pyarrow.float64()) for name in ("start", "end", "fps")),
            ("clip", vector),
            ("times", pyarrow.list_(pyarrow.float64())),
            ("frames", pyarrow.list_(vector)),
        ],
        metadata=dict(metadata),
    )
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue().to_pybytes()
