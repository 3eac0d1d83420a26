"""An upload as it comes in: counted while it streams into a file, then looked at before any work is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from side4video.app.limits import Limits, in_bytes, in_time
from side4video.app.playback import browser_type
from side4video.app.refusal import RefusalError
from side4video.app.workspace import Workspace
from side4video.data.decode import VideoReader
from side4video.errors import VideoError

_BUFFER_BYTES = 2**20


def check_length(header: str | None, limits: Limits) -> int | None:
    """The length that a request says its body has; None when it does not.

    Raises:
        RefusalError: no number, empty, or too long.
    """
    if header is None:
        return None
    if not header.isascii() or not header.isdigit() or len(header) > 18:
        raise RefusalError(400, "the length of the upload is not a number")
    length = int(header)
    if length == 0:
        raise RefusalError(400, "this file is empty")
    if length > limits.max_upload_bytes:
        raise RefusalError(
            413,
            f"this file is too large: {in_bytes(length)}, and at most {in_bytes(limits.max_upload_bytes)} are taken",
        )
    return length


async def receive(
    chunks: AsyncIterator[bytes], path: Path, length: int | None, workspace: Workspace, limits: Limits
) -> None:
    """Write an upload to `path`, which may end as soon as it breaks a limit; the caller removes the file then.

    Raises:
        RefusalError: too long, empty, ended early, silent for too long, or no room on the disk.
    """
    if length is not None:
        workspace.reserve(path, length)
    received = 0
    buffer = bytearray()
    try:
        with path.open("wb") as file:
            while True:
                async with asyncio.timeout(limits.idle_seconds):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                received += len(chunk)
                if received > limits.max_upload_bytes:
                    raise RefusalError(
                        413, f"this file is too large: at most {in_bytes(limits.max_upload_bytes)} are taken"
                    )
                if length is None:
                    workspace.reserve(path, received)
                buffer += chunk
                if len(buffer) >= _BUFFER_BYTES:
                    file.write(buffer)
                    buffer.clear()
            file.write(buffer)
    except TimeoutError:
        raise RefusalError(408, f"the upload was silent for {in_time(limits.idle_seconds)} and was given up") from None
    except OSError as error:
        raise RefusalError(
            507, f"the server cannot keep the upload: {error.strerror or error}", retry_seconds=60
        ) from None
    if not received:
        raise RefusalError(400, "this file is empty")
    workspace.settle(path)


def look_at(path: Path, limits: Limits) -> tuple[dict[str, Any], str | None]:
    """What the page shows of a video, from its headers and first picture; and its media type if browsers play it.

    Raises:
        RefusalError: no video that can be read, too long, or with pictures that are too large or too many a second.
    """
    try:
        with VideoReader(path, max_side=limits.max_side, max_pixels=limits.max_pixels) as reader:
            info = reader.info
        media_type = browser_type(path)
    except VideoError as error:
        raise RefusalError(415, f"this file cannot be read as a video: {error.reason.partition(';')[0]}") from None
    if info.duration_seconds > limits.max_seconds:
        raise RefusalError(
            413,
            f"this video is too long: {in_time(info.duration_seconds)}, and at most {in_time(limits.max_seconds)} are "
            "taken",
        )
    if info.num_frames > limits.max_fps * max(1.0, info.duration_seconds):
        raise RefusalError(
            413, f"this video has too many pictures a second: {info.num_frames} in {in_time(info.duration_seconds)}"
        )
    shown = {
        "seconds": info.duration_seconds,
        "frames": info.num_frames,
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
    }
    return shown, media_type
