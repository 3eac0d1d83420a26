"""Are colours those that the stream's matrix and range say, and are pictures upright?"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from side4video.data.decode import VideoReader
from side4video.data.pixels import degrees, turn

# luma weights of red and blue, and the number in the stream (ITU-T H.273, "Matrix coefficients")
MATRICES = {"unnamed": (0.299, 0.114, 2), "601": (0.299, 0.114, 6), "709": (0.2126, 0.0722, 1)}
MATRICES["2020"] = (0.2627, 0.0593, 9)
LOSSLESS = {
    "libx264": {"qp": "0", "preset": "ultrafast"},
    "libx265": {"x265-params": "lossless=1:log-level=none"},
    "libvpx-vp9": {"lossless": "1"},
    "ffv1": {},
}
COLUMNS, ROWS, BLOCK = 6, 4, 16


def to_yuv(rgb_KC: np.ndarray, matrix: str, full: bool, bits: int) -> np.ndarray:
    """The standards' formula, rounded to codes."""
    red, blue, _ = MATRICES[matrix]
    luma = rgb_KC @ np.array([red, 1 - red - blue, blue])
    chroma = [(rgb_KC[:, 2] - luma) / (2 - 2 * blue), (rgb_KC[:, 0] - luma) / (2 - 2 * red)]
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    scale = (top, top) if full else (219 * unit, 224 * unit)
    offset = 0 if full else 16 * unit
    planes = [offset + scale[0] * luma, *(128 * unit + scale[1] * c for c in chroma)]
    return np.clip(np.round(np.stack(planes)), 0, top).astype(np.uint16)


def to_rgb(yuv_CK: np.ndarray, matrix: str, full: bool, bits: int) -> np.ndarray:
    """The formula back, from the rounded codes."""
    red, blue, _ = MATRICES[matrix]
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    luma, u, v = yuv_CK.astype(np.float64)
    luma = luma / top if full else (luma - 16 * unit) / (219 * unit)
    u, v = ((c - 128 * unit) / (top if full else 224 * unit) for c in (u, v))
    r, b = luma + (2 - 2 * red) * v, luma + (2 - 2 * blue) * u
    return 255 * np.clip(np.stack([r, (luma - red * r - blue * b) / (1 - red - blue), b], axis=-1), 0, 1)


def write_patches(path: Path, codec: str, pix_fmt: str, yuv_CK: np.ndarray, full: bool, matrix: str, bits: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=LOSSLESS[codec])
        stream.width, stream.height, stream.pix_fmt = COLUMNS * BLOCK, ROWS * BLOCK, pix_fmt
        context = stream.codec_context
        context.color_range, context.colorspace = (2 if full else 1), MATRICES[matrix][2]
        frame = av.VideoFrame(stream.width, stream.height, pix_fmt)
        frame.color_range, frame.colorspace = context.color_range, context.colorspace
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        for plane, codes in zip(frame.planes, yuv_CK, strict=False):
            side = BLOCK * plane.width // stream.width
            picture = np.kron(codes.reshape(ROWS, COLUMNS), np.ones((side, side), np.uint16))
            rows = np.zeros((plane.height, plane.line_size // (2 if bits > 8 else 1)), "u2" if bits > 8 else "u1")
            rows[:, : picture.shape[1]] = picture
            plane.update(rows.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "bits", "tolerance"),
    [
        # 8-bit 4:2:0 takes the scaler's fast path, which rounds its tables; the others are exact to rounding
        ("libx264", "yuv420p", 8, 3.0),
        ("libvpx-vp9", "yuv420p", 8, 3.0),
        ("libx264", "yuv444p", 8, 0.6),
        ("libx264", "yuv420p10le", 10, 1.4),
        ("libx265", "yuv420p10le", 10, 1.4),
    ],
)
def test_colours(
    tmp_path: Path, codec: str, pix_fmt: str, bits: int, tolerance: float, full: bool, matrix: str
) -> None:
    rgb_KC = np.random.default_rng(3).uniform(0, 1, (COLUMNS * ROWS, 3))
    rgb_KC[:5] = [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    yuv_CK = to_yuv(rgb_KC, matrix, full, bits)
    write_patches(tmp_path / "patches.mkv", codec, pix_fmt, yuv_CK, full, matrix, bits)
    with VideoReader(tmp_path / "patches.mkv") as reader:
        found_CHW = reader.read([0])[0].numpy()
    middles = found_CHW[:, BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].reshape(3, -1).T
    np.testing.assert_allclose(middles, to_rgb(yuv_CK, matrix, full, bits), atol=tolerance)
    np.testing.assert_allclose(middles, 255 * rgb_KC, atol=tolerance + 2)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "bits"), [("libx265", "gray", 8), ("libx264", "gray", 8), ("ffv1", "gray", 8)]
)
def test_grey(tmp_path: Path, codec: str, pix_fmt: str, bits: int, full: bool) -> None:
    levels_K = np.linspace(0, 1, COLUMNS * ROWS)
    yuv_CK = to_yuv(np.repeat(levels_K[:, None], 3, axis=1), "601", full, bits)
    write_patches(tmp_path / "grey.mkv", codec, pix_fmt, yuv_CK, full, "601", bits)
    with VideoReader(tmp_path / "grey.mkv") as reader:
        found_CHW = reader.read([0])[0].numpy()
    middles = found_CHW[:, BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].reshape(3, -1)
    assert (middles[0] == middles[1]).all()
    assert (middles[0] == middles[2]).all()
    np.testing.assert_allclose(middles[0], 255 * levels_K, atol=1.6)


@pytest.mark.parametrize(
    ("how", "rotation", "upright"),
    [
        ((False, False, False), 0, [[1, 2, 3], [4, 5, 6]]),
        ((True, False, True), 90, [[3, 6], [2, 5], [1, 4]]),
        ((False, True, True), 180, [[6, 5, 4], [3, 2, 1]]),
        ((True, True, False), 270, [[4, 1], [5, 2], [6, 3]]),
        ((False, True, False), 0, [[3, 2, 1], [6, 5, 4]]),
        ((False, False, True), 0, [[4, 5, 6], [1, 2, 3]]),
    ],
)
def test_turning(how: tuple[bool, bool, bool], rotation: int, upright: list[list[int]]) -> None:
    picture_HWC = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[..., None].repeat(3, axis=-1)
    assert turn(picture_HWC, how)[..., 0].tolist() == upright
    assert degrees(how) == rotation


@pytest.mark.parametrize("mirror", [{"hflip": True}, {"vflip": True}])
def test_mirrored_recordings(tmp_path: Path, mirror: dict[str, bool]) -> None:
    picture_HWC = np.zeros((64, 96, 3), np.uint8)
    picture_HWC[:32, :48] = 255  # bright top left
    with av.open(str(tmp_path / "m.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(0, **mirror)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, "rgb24")))
        container.mux(stream.encode(None))
    with VideoReader(tmp_path / "m.mp4") as reader:
        found_CHW = reader.read([0])[0].numpy()
    corner = (16, 72) if "hflip" in mirror else (48, 24)
    assert found_CHW[0][corner] > 200
    assert found_CHW[0][16, 24] < 50
