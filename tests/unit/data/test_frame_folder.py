"""Are numbered pictures read as the video they are, and are holes and odd ones named?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assets.make_assets import draw_frame, read_number
from side4video.data.frame_folder import FrameFolderReader
from side4video.errors import InputError, VideoError


def write_frames(folder: Path, pattern: str, numbers: range, size: tuple[int, int] = (96, 72)) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for number in numbers:
        path = folder / pattern.format(number)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_frame(number, *size)).save(path)
    return folder


PATTERNS = ["{:05d}.jpg", "img_{:05d}.jpg", "{:06d}.png", "frame{:d}.jpg", "a{{b}}_{:03d}.JPG", "shot 2 - {:04d}.jpeg"]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_numbers_start_at_1(tmp_path: Path, pattern: str, given: bool) -> None:
    write_frames(tmp_path, pattern, range(1, 13))
    (tmp_path / "notes.txt").write_text("not a picture")
    with FrameFolderReader(tmp_path, frame_pattern=pattern if given else None) as reader:
        assert reader.frame_pattern == pattern
        assert (reader.info.num_frames, reader.info.width, reader.info.height) == (12, 96, 72)
        frames_TCHW = reader.read([11, 0, 4, 0])
        assert [read_number(frame) for frame in frames_TCHW.numpy()] == [12, 1, 5, 1]
        assert reader.frame_range(0.2, 0.4) == range(5, 10)
        assert reader.info.duration_seconds == pytest.approx(12 / 25)


def test_pictures_in_a_folder_below(tmp_path: Path) -> None:
    write_frames(tmp_path, "rgb/{:05d}.jpg", range(1, 4))
    assert FrameFolderReader(tmp_path, frame_pattern="rgb/{:05d}.jpg").info.num_frames == 3


def test_png_is_exact_and_grey_or_transparent_pictures_are_rgb(tmp_path: Path) -> None:
    picture_HWC = draw_frame(7, 40, 30)
    Image.fromarray(picture_HWC).save(tmp_path / "1.png")
    Image.fromarray(picture_HWC).convert("L").save(tmp_path / "2.png")
    Image.fromarray(picture_HWC).convert("RGBA").save(tmp_path / "3.png")
    frames_TCHW = FrameFolderReader(tmp_path).read([0, 1, 2]).numpy()
    np.testing.assert_array_equal(frames_TCHW[0], picture_HWC.transpose(2, 0, 1))
    np.testing.assert_array_equal(frames_TCHW[2], frames_TCHW[0])
    assert (frames_TCHW[1][0] == frames_TCHW[1][2]).all()


@pytest.mark.parametrize(("missing", "named"), [({1}, "img_00001.jpg"), ({4, 6}, "img_00004.jpg")])
def test_a_hole_is_named(tmp_path: Path, missing: set[int], named: str) -> None:
    write_frames(tmp_path, "img_{:05d}.jpg", range(1, 9))
    for number in missing:
        (tmp_path / f"img_{number:05d}.jpg").unlink()
    with pytest.raises(VideoError, match=f"{named} is missing"):
        FrameFolderReader(tmp_path)


def test_pictures_of_unequal_size(tmp_path: Path) -> None:
    write_frames(tmp_path, "{:05d}.jpg", range(1, 4))
    write_frames(tmp_path, "{:05d}.jpg", range(4, 5), size=(80, 72))
    with FrameFolderReader(tmp_path) as reader:
        assert reader.read([0, 2]).shape == (2, 3, 72, 96)
        with pytest.raises(VideoError, match=r"00004.jpg is 80x72, but the first frame 96x72"):
            reader.read([0, 3])


@pytest.mark.parametrize("damage", ["empty", "noise", "cut"])
def test_a_damaged_picture_is_named(tmp_path: Path, damage: str) -> None:
    write_frames(tmp_path, "{:05d}.jpg", range(1, 4))
    path = tmp_path / "00002.jpg"
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "noise": b"\x12" * 500, "cut": data[: len(data) // 2]}[damage])
    with FrameFolderReader(tmp_path) as reader, pytest.raises(VideoError, match=r"00002.jpg is not a readable picture"):
        reader.read([1])


def test_folders_that_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such folder of frames"):
        FrameFolderReader(tmp_path / "nothing")
    with pytest.raises(VideoError, match="no numbered pictures in it"):
        FrameFolderReader(tmp_path)
    write_frames(tmp_path, "a{:03d}.jpg", range(1, 3))
    with pytest.raises(VideoError, match=r"no file fits 'b\{:03d\}.jpg'"):
        FrameFolderReader(tmp_path, frame_pattern="b{:03d}.jpg")
    write_frames(tmp_path, "b{:03d}.jpg", range(1, 3))
    with pytest.raises(VideoError, match=r"several kinds, give frame_pattern: aN.jpg and bN.jpg"):
        FrameFolderReader(tmp_path)
    assert FrameFolderReader(tmp_path, frame_pattern="b{:03d}.jpg").info.num_frames == 2


@pytest.mark.parametrize("pattern", ["frame.jpg", "{}{}.jpg", "{name}.jpg", "{:05q}.jpg"])
def test_patterns_that_are_none(tmp_path: Path, pattern: str) -> None:
    write_frames(tmp_path, "{:05d}.jpg", range(1, 3))
    with pytest.raises(InputError, match="frame_pattern must hold one number"):
        FrameFolderReader(tmp_path, frame_pattern=pattern)


def test_numbers_out_of_range(tmp_path: Path) -> None:
    write_frames(tmp_path, "{:05d}.jpg", range(1, 4))
    with pytest.raises(InputError, match=r"frame number 3 of .* is not in 0\.\.2"):
        FrameFolderReader(tmp_path).read([3])
