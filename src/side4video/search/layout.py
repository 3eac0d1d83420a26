"""How windows lie in every store: payload fields, directions and lengths, and the file that says whose folder it is.

Every store, local or server, has two named vectors a window, `mean` (the unit vector of the frames' mean) and `frames`
(one unit vector a frame), and the payload fields of `window_payload`. A local store is a folder with `store.json`.

Shapes: T, frames; E, joint width.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.errors import StoreError
from side4video.search.store import Precision, StoredVideo, StoreIdentity, Window, WindowFilter, WindowPoint
from side4video.training.files import sync_folder, write_json

FORMAT = "side4video vector store"
LAYOUT = 1
STORE_FILE = "store.json"
MEAN, FRAMES = "mean", "frames"
DTYPES: Mapping[Precision, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
KEYWORD_FIELDS = ("path", "folders", "content_hash")
FLOAT_FIELDS = ("start_seconds", "end_seconds")


def window_payload(window: Window, norms_T: Tensor) -> dict[str, Any]:
    """The payload of a window as plain JSON values; `norms` gives the unnormalised frames back."""
    return {**asdict(window), "folders": window.folders, "norms": norms_T.tolist()}


def payload_window(payload: Mapping[str, Any]) -> tuple[Window, Tensor]:
    """The window and its frames' lengths.

    Raises:
        StoreError: the payload is not one of ours.
    """
    try:
        window = Window(
            path=str(payload["path"]),
            content_hash=str(payload["content_hash"]),
            number=int(payload["number"]),
            num_windows=int(payload["num_windows"]),
            start_seconds=float(payload["start_seconds"]),
            end_seconds=float(payload["end_seconds"]),
            fps=float(payload["fps"]),
            extra=dict(payload.get("extra") or {}),
        )
        return window, torch.tensor(payload["norms"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a stored window is not in side4video's layout: {type(error).__name__}: {error}") from None


def split_frames(frames_TE: Tensor) -> tuple[Tensor, Tensor]:
    """`directions_TE` of length one (zero for a zero frame) and `norms_T`, both float32."""
    frames_TE = frames_TE.detach().to("cpu", torch.float32)
    norms_T = frames_TE.norm(dim=-1)
    return frames_TE / norms_T.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1), norms_T


def join_frames(directions_TE: Tensor, norms_T: Tensor) -> Tensor:
    """The unnormalised frames again, float32."""
    return directions_TE.float() * norms_T.unsqueeze(-1)


def read_vectors(rows: Sequence[Sequence[float]]) -> Tensor:
    """`rows_TE` as float32; a database gives lists, and packing them is six times as fast as `torch.tensor`."""
    packed = b"".join([struct.pack(f"{len(row)}f", *row) for row in rows])
    return torch.frombuffer(bytearray(packed), dtype=torch.float32).view(len(rows), -1)


def mean_direction(frames_TE: Tensor) -> Tensor:
    """`mean_E`: the unit vector of the mean of unnormalised frames (or of one vector, with T = 1), float32."""
    return F.normalize(frames_TE.detach().to("cpu", torch.float32).mean(0), dim=0)


def check_points(points: Sequence[WindowPoint], embed_dim: int) -> dict[str, WindowPoint]:
    """The points by id (the last one of an id counts).

    Raises:
        StoreError: a point that cannot be stored; the message names the video and what is wrong.
    """
    for point in points:
        window, frames_TE = point.window, point.frames_TE
        where = f"{window.path}, window {window.number}"
        if frames_TE.dim() != 2 or frames_TE.shape[0] == 0 or frames_TE.shape[1] != embed_dim:
            raise StoreError(
                f"{where}: frame vectors of shape {tuple(frames_TE.shape)}; this store takes (frames, {embed_dim})"
            )
        if not torch.isfinite(frames_TE).all():
            raise StoreError(f"{where}: frame vectors hold NaN or infinite values")
        times = (window.start_seconds, window.end_seconds, window.fps)
        if not all(math.isfinite(x) for x in times) or window.end_seconds < window.start_seconds:
            raise StoreError(f"{where}: start, end and fps must be finite and in order; got {times}")
        try:
            json.dumps(asdict(window), allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise StoreError(f"{where!a}: cannot be written as JSON: {error}") from None
    return {point.window.id: point for point in points}


def check_delete(where: WindowFilter) -> None:
    """Raises:
    StoreError: a filter without a condition.
    """
    if where.is_empty:
        raise StoreError("delete needs at least one condition; an empty filter would remove every window")


def meets_nothing(where: WindowFilter | None) -> bool:
    """An empty collection of paths, folders or hashes: no window can meet it."""
    if where is None:
        return False
    return any(names is not None and not names for names in (where.paths, where.folders, where.content_hashes))


def count_videos(windows: Iterable[Window]) -> list[StoredVideo]:
    """Every video that the windows belong to, by path."""
    counts: dict[tuple[str, str, int], int] = {}
    for window in windows:
        key = (window.path, window.content_hash, window.num_windows)
        counts[key] = counts.get(key, 0) + 1
    return [StoredVideo(path, digest, n, total) for (path, digest, total), n in sorted(counts.items())]


def make_folder(folder: Path, kind: str, identity: StoreIdentity, fill: Callable[[Path, StoreIdentity], None]) -> None:
    """Make a store's folder, complete or not at all: `fill` puts the store's own files into the folder it is given.

    Raises:
        StoreError: `folder` is there already and holds something, or cannot be made.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(
                f"{folder} is not a side4video vector store (no {STORE_FILE}), and not empty: left as it is"
            )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial, identity)
        write_json(partial / STORE_FILE, {"format": FORMAT, "layout": LAYOUT, "kind": kind, **asdict(identity)})
        partial.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(f"{folder}: cannot be made: {error.strerror or error}") from None


def is_store(folder: Path) -> bool:
    """Does `folder` hold a store (of whatever layout)?"""
    return (folder / STORE_FILE).is_file()


def read_folder(folder: Path) -> tuple[str, StoreIdentity]:
    """The kind of store in `folder` and its identity; changes nothing.

    Raises:
        StoreError: no store, a damaged one, or one of a newer layout.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        what = "does not exist" if not folder.exists() else f"is not a side4video vector store (no {STORE_FILE})"
        raise StoreError(f"{folder} {what}")
    try:
        meta: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: damaged: {error}; left as it is") from None
    return parse_meta(meta, str(path))


def parse_meta(meta: Any, where: str) -> tuple[str, StoreIdentity]:
    """Kind and identity from the JSON of `store.json` or a server's record of it.

    Raises:
        StoreError: not ours, damaged, or of a newer layout.
    """
    if not isinstance(meta, dict) or cast("dict[str, Any]", meta).get("format") != FORMAT:
        raise StoreError(f"{where}: not a side4video vector store; left as it is")
    fields = cast("dict[str, Any]", meta)
    layout, kind, embed_dim, precision = (fields.get(k) for k in ("layout", "kind", "embed_dim", "precision"))
    if isinstance(layout, int) and layout > LAYOUT:
        raise StoreError(
            f"{where}: layout {layout} comes from a newer side4video; this one reads up to {LAYOUT}: "
            "upgrade side4video, or index into another folder. Left as it is"
        )
    model = fields.get("model")
    valid = isinstance(embed_dim, int) and embed_dim > 0 and precision in DTYPES and isinstance(model, dict)
    if layout != LAYOUT or not isinstance(kind, str) or not valid:
        raise StoreError(f"{where}: damaged: unexpected layout, kind, embed_dim, precision or model; left as it is")
    identity = StoreIdentity(cast("int", embed_dim), cast("Precision", precision), cast("dict[str, Any]", model))
    return kind, identity
