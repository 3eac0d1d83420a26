"""Moving pictures: which frames are shown, the maps between those explained, and files that other programs read."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image

from side4video.explain.movie import gif_bytes, maps_between, mp4_bytes, shown_frames


@pytest.mark.parametrize(
    ("explained", "limit", "shown"),
    [
        ([2, 5, 8], 100, [2, 3, 4, 5, 6, 7, 8]),
        ([0, 10, 40], 5, [0, 10, 20, 30, 40]),
        ([9, 3, 6], 2, [3, 9]),
        ([4, 4, 4], 9, [4]),
    ],
)
def test_shown_frames_reach_from_the_first_to_the_last(explained: list[int], limit: int, shown: list[int]) -> None:
    assert shown_frames(explained, limit) == shown


def test_maps_between_are_mixed_by_distance() -> None:
    maps_TYX = torch.tensor([1.0, 5.0, 0.0])[:, None, None].expand(3, 2, 4)
    mixed = maps_between(maps_TYX, [10, 14, 20], [8, 10, 11, 14, 17, 20, 25])[:, 1, 2]
    torch.testing.assert_close(mixed, torch.tensor([1.0, 1.0, 2.0, 5.0, 2.5, 0.0, 0.0]))


def test_maps_of_frames_out_of_order_and_repeated() -> None:
    maps_TYX = torch.tensor([4.0, 0.0, 2.0])[:, None, None].expand(3, 1, 2)
    torch.testing.assert_close(maps_between(maps_TYX, [9, 1, 5], [1, 3, 5, 7, 9])[:, 0, 0], torch.arange(5.0))
    short = maps_between(maps_TYX, [0, 0, 0], [0])
    assert short.shape == (1, 1, 2)
    assert float(short.max()) <= 4


def frames() -> np.ndarray:
    levels = np.array([20, 90, 160, 230], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (4, 33, 51, 3)).copy()


def test_mp4_holds_every_frame_at_its_time() -> None:
    with av.open(io.BytesIO(mp4_bytes(frames(), [3.0, 3.1, 3.5, 4.0]))) as container:
        found = list(container.decode(video=0))
    assert [round(float(frame.time), 3) for frame in found] == [0.0, 0.1, 0.5, 1.0]
    assert {(frame.width, frame.height) for frame in found} == {(50, 32)}
    for frame, level in zip(found, (20, 90, 160, 230), strict=True):
        assert abs(frame.to_ndarray(format="rgb24").mean() - level) < 4


def test_gif_holds_every_frame_for_its_time() -> None:
    with Image.open(io.BytesIO(gif_bytes(frames(), [0.0, 0.1, 0.5, 0.505]))) as picture:
        assert picture.size == (51, 33)
        assert picture.n_frames == 4
        lasts, levels = [], []
        for number in range(4):
            picture.seek(number)
            lasts.append(picture.info["duration"])
            levels.append(np.asarray(picture.convert("RGB")).mean())
    assert lasts == [100, 400, 20, 1000]
    np.testing.assert_allclose(levels, [20, 90, 160, 230], atol=4)
