"""Camera clips: opposites are time reversals, no photograph is in both splits, the windows stay in the photograph."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from side4video.data.decode import probe_video

SCRIPT = Path(__file__).parents[3] / "scripts" / "make_camera_clips.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_camera_clips", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


camera = load_script()
FORWARD = [pair[0] for pair in camera.PAIRS]


def photo(seed: int, width: int = 320, height: int = 260) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def path(motion: str, seed: int, size: tuple[int, int] = (320, 260), aspect: float = 1.2) -> list[object]:
    return camera.camera_path(motion, size, aspect, 19, np.random.default_rng(seed))


def column(windows: list[object], name: str) -> NDArray[np.float64]:
    return np.array([getattr(window, name) for window in windows])


@pytest.mark.parametrize("pair", camera.PAIRS, ids="/".join)
def test_opposite_classes_are_exact_time_reversals_of_each_other(pair: tuple[str, str]) -> None:
    for seed in range(2):
        forward, backward = (camera.draw_camera_clip(photo(5), name, np.random.default_rng(seed)) for name in pair)
        np.testing.assert_array_equal(backward.frames_THWC, forward.frames_THWC[::-1])
        assert not np.array_equal(backward.frames_THWC, forward.frames_THWC)
        assert backward.frame_rate == forward.frame_rate


def test_each_camera_moves_the_way_its_name_says() -> None:
    for seed in range(20):
        assert path("pan-left", seed)[-1].x < path("pan-left", seed)[0].x
        assert path("tilt-up", seed)[-1].y < path("tilt-up", seed)[0].y
        assert path("zoom-in", seed)[-1].height < 0.75 * path("zoom-in", seed)[0].height
        assert path("rotate-clockwise", seed)[-1].angle > path("rotate-clockwise", seed)[0].angle + math.radians(25)


def test_a_window_that_moves_right_and_down_shows_what_lies_there_and_a_clockwise_camera_turns_the_picture_back() -> (
    None
):
    pixels = np.zeros((200, 300, 3), dtype=np.uint8)
    pixels[:100, 150:] = (255, 0, 0)
    pixels[100:, 150:] = (0, 255, 0)
    picture = Image.fromarray(pixels)
    look = camera.look(picture, camera.Window(225.0, 50.0, 60.0, 0.0), 24, 18)
    assert look.size == (24, 18)
    assert look.getpixel((12, 9)) == (255, 0, 0)
    assert camera.look(picture, camera.Window(225.0, 150.0, 60.0, 0.0), 24, 18).getpixel((12, 9)) == (0, 255, 0)
    # seen from the middle, red is up and right; a camera turned clockwise by 90 degrees sees it up and left
    turned = camera.look(picture, camera.Window(150.0, 100.0, 90.0, math.pi / 2), 24, 18)
    assert turned.getpixel((4, 3)) == (255, 0, 0)
    assert turned.getpixel((20, 3)) == (0, 255, 0)


@pytest.mark.parametrize("motion", FORWARD)
@pytest.mark.parametrize("size", [(320, 260), (250, 480), (720, 360)])
def test_no_window_leaves_the_photograph(motion: str, size: tuple[int, int]) -> None:
    for seed in range(40):
        aspect = (0.78, 1.0, 1.29)[seed % 3]
        for window in path(motion, seed, size, aspect):
            high, wide = window.height / 2, window.height * aspect / 2
            for u, v in ((-wide, -high), (wide, -high), (-wide, high), (wide, high)):
                x = window.x + u * math.cos(window.angle) - v * math.sin(window.angle)
                y = window.y + u * math.sin(window.angle) + v * math.cos(window.angle)
                assert -1e-6 <= x <= size[0] + 1e-6
                assert -1e-6 <= y <= size[1] + 1e-6


def test_start_speed_and_window_vary() -> None:
    windows = [path("pan-left", seed) for seed in range(30)]
    for name, least in (("x", 20.0), ("y", 10.0), ("height", 8.0), ("angle", 0.05)):
        assert np.std([column(one, name)[0] for one in windows]) > least
    ways = [column(one, "x")[0] - column(one, "x")[-1] for one in windows]
    assert max(ways) > 1.7 * min(ways)


def test_no_photograph_is_in_both_splits_and_none_is_lost() -> None:
    names = [f"photo{i}" for i in range(11)]
    for seed in range(5):
        parts = camera.split_photographs(names, val_fraction=0.3, seed=seed)
        assert not set(parts["train"]) & set(parts["val"])
        assert sorted(parts["train"] + parts["val"]) == sorted(names)
        assert len(parts["val"]) == 3
    assert camera.split_photographs(names[::-1], val_fraction=0.3, seed=4) == parts
    assert camera.split_photographs(names, val_fraction=0.3, seed=3) != parts


def test_copies_small_and_plain_pictures_are_left_out(tmp_path: Path) -> None:
    for seed in range(4):
        photo(seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "again").mkdir()
    photo(1).resize((640, 520)).filter(ImageFilter.GaussianBlur(1)).save(tmp_path / "again" / "larger.jpg", quality=70)
    photo(7, 200, 150).save(tmp_path / "small.png")
    Image.new("RGB", (300, 260), (90, 120, 200)).save(tmp_path / "plain.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = camera.find_photographs([tmp_path])
    assert len(found) == 4
    assert {path.stem for path in found.values()} >= {"0", "2", "3"}
    assert "small" not in {path.stem for path in found.values()}
    assert "plain" not in {path.stem for path in found.values()}


def test_too_few_photographs_are_an_error(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"at least 4 different photographs .* found 1"):
        camera.find_photographs([tmp_path])


def test_clips_show_only_photographs_of_their_split_and_every_class_shows_the_same() -> None:
    parts = camera.split_photographs([f"photo{i}" for i in range(5)], val_fraction=0.4, seed=0)
    clips = camera.plan_clips(parts, {"train": 4, "val": 3})
    assert len({clip.video for clip in clips}) == 7 * len(camera.CLASSES)
    for clip in clips:
        assert clip.photograph in parts[clip.split]
        assert clip.video.startswith(f"{clip.split}/{clip.class_name}/")
    for name in camera.CLASSES:
        shown = [clip.photograph for clip in clips if clip.class_name == name and clip.split == "train"]
        assert shown == [*parts["train"], parts["train"][0]]


def test_a_written_clip_is_h264_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    photo(3).save(tmp_path / "photo.png")
    clip = camera.plan_clips({"train": ["photo"], "val": ["photo"]}, {"train": 1, "val": 0})[4]
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        camera.write_camera_clips(tmp_path / folder, {"photo": tmp_path / "photo.png"}, [clip], seed=seed, processes=1)
    first, again, other = ((tmp_path / folder / clip.video).read_bytes() for folder in "abc")
    assert first == again != other
    info = probe_video(tmp_path / "a" / clip.video)
    assert info.codec == "h264"
    assert camera.NUM_FRAMES[0] <= info.num_frames <= camera.NUM_FRAMES[1]
