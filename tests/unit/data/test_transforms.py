"""Clip transforms: geometry, one draw for all frames, label-aware mirror, RandAugment strings, randomness."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from side4video.data.randaugment import RandAugmentPolicy, rand_augment
from side4video.data.transforms import (
    PixelFormat,
    TestTransform,
    TrainTransform,
    crop_boxes,
    resized_size,
    seeded_by,
)
from side4video.errors import ConfigError, InputError

PIXELS = PixelFormat((48, 40), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear")
POLICY = RandAugmentPolicy.parse("m7-n4-mstd0.5-inc1")
FULL = replace(TrainTransform(PIXELS), augment=POLICY, grayscale=0.3, erasing=0.5)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _frames(T: int = 5, height: int = 60, width: int = 90, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (T, 3, height, width), dtype=torch.uint8, generator=_generator(seed))


def _still(T: int = 5, height: int = 60, width: int = 90) -> Tensor:
    return _frames(1, height, width).expand(T, -1, -1, -1)


@pytest.mark.parametrize("resize", ["short", "squash"])
@pytest.mark.parametrize("size", [(60, 90), (90, 60), (7, 300), (300, 7), (2, 2)])
def test_output_has_the_backbones_size(resize: str, size: tuple[int, int]) -> None:
    frames = _frames(3, *size)
    transform = replace(FULL, resize=resize)  # pyright: ignore[reportArgumentType]
    for seed in range(10):
        clip, label = transform(frames, 4, _generator(seed))
        assert (clip.shape, clip.dtype, label) == ((3, 3, 48, 40), torch.float32, 4)
        assert clip.isfinite().all()
    for num_crops in (1, 3, 5):
        crops = TestTransform(PIXELS, resize, num_crops)(frames)  # pyright: ignore[reportArgumentType]
        assert [crop.shape for crop in crops] == [(3, 3, 48, 40)] * num_crops


def test_all_frames_of_a_clip_get_the_same_draw() -> None:
    """A still clip stays still through every augmentation; two clips of one picture differ."""
    outputs = []
    for seed in range(40):
        clip, _ = replace(FULL, flip="on")(_still(), 0, _generator(seed))
        assert (clip == clip[:1]).all()
        outputs.append(clip)
    assert len({tuple(clip.flatten()[:500].tolist()) for clip in outputs}) == 40


def test_only_the_given_generator_is_used() -> None:
    frames = _frames()
    torch.manual_seed(1)
    first, _ = FULL(frames, 0, _generator(3))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, _ = FULL(frames, 0, _generator(3))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    other, _ = FULL(frames, 0, _generator(4))
    assert not torch.equal(first, other)


def test_global_state_is_put_back_after_an_error() -> None:
    before = torch.get_rng_state()

    def fail() -> None:
        with seeded_by(_generator()):
            torch.rand(3)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_input_is_not_changed() -> None:
    frames = _frames()
    copy = frames.clone()
    FULL(frames, 0, _generator())
    TestTransform(PIXELS, num_crops=3)(frames)
    assert torch.equal(frames, copy)


def test_normalisation() -> None:
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 48, 40)
    (clip,) = TestTransform(PIXELS)(frames)
    expected = (torch.tensor([0, 128 / 255, 1.0]) - torch.tensor(PIXELS.mean)) / torch.tensor(PIXELS.std)
    torch.testing.assert_close(clip, expected.view(1, 3, 1, 1).expand(2, 3, 48, 40), atol=1e-6, rtol=1e-5)


# mirror


def _mirror_only(flip: str, labels: dict[int, int]) -> TrainTransform:
    return TrainTransform(PIXELS, flip=flip, flip_labels=labels, crop_area=(1, 1), crop_aspect=(1, 1))  # pyright: ignore[reportArgumentType]


def _flips(transform: TrainTransform, label: int) -> list[tuple[bool, int]]:
    """(mirrored, label) of many draws: a picture that is dark on its left tells."""
    frames = torch.zeros(2, 3, 44, 44, dtype=torch.uint8)
    frames[..., 22:] = 255
    out = []
    for seed in range(200):
        clip, new_label = transform(frames, label, _generator(seed))
        out.append((bool(clip[..., :5].mean() > clip[..., -5:].mean()), new_label))
    return out


def test_swapping_flip_changes_the_label_exactly_when_mirrored() -> None:
    transform = _mirror_only("swap", {3: 5, 5: 3})
    for label, partner in ((3, 5), (5, 3), (4, 4)):
        flips = _flips(transform, label)
        assert {new for mirrored, new in flips if mirrored} == {partner}
        assert {new for mirrored, new in flips if not mirrored} == {label}
        assert 70 < sum(mirrored for mirrored, _ in flips) < 130


def test_plain_and_no_flip() -> None:
    plain = _flips(_mirror_only("on", {}), 3)
    assert 70 < sum(mirrored for mirrored, _ in plain) < 130
    assert {label for _, label in plain} == {3}
    assert not any(mirrored for mirrored, _ in _flips(_mirror_only("off", {}), 3))


# crops


def test_training_crops_keep_area_and_aspect() -> None:
    transform = TrainTransform(PIXELS, crop_area=(0.3, 0.6), crop_aspect=(0.8, 1.25))
    frames = torch.empty(1, 3, 200, 300, dtype=torch.uint8)
    boxes = []
    for seed in range(200):
        with seeded_by(_generator(seed)):
            boxes.append(transform._draw_box(frames))  # pyright: ignore[reportPrivateUsage]
    areas = [box.height * box.width / 60_000 for box in boxes]
    aspects = [box.width / box.height for box in boxes]
    assert (min(areas), max(areas)) == (pytest.approx(0.31, abs=0.02), pytest.approx(0.59, abs=0.02))
    assert (min(aspects), max(aspects)) == (pytest.approx(0.81, abs=0.03), pytest.approx(1.24, abs=0.03))
    assert all(box.top >= 0 and box.top + box.height <= 200 for box in boxes)
    assert all(box.left >= 0 and box.left + box.width <= 300 for box in boxes)
    assert len({box.top for box in boxes}) > 20


def test_squashed_crops_are_drawn_in_the_squashed_picture() -> None:
    """Square crops of a 5:4 picture are narrow in a 16:9 source: aspect 16/9 * 4/5 in source pixels."""
    pixels = replace(PIXELS, size=(224, 224))
    transform = TrainTransform(pixels, resize="squash", crop_area=(0.3, 0.3), crop_aspect=(1, 1))
    frames = torch.empty(1, 3, 720, 1280, dtype=torch.uint8)
    for seed in range(20):
        with seeded_by(_generator(seed)):
            box = transform._draw_box(frames)  # pyright: ignore[reportPrivateUsage]
        assert box.width / box.height == pytest.approx(1280 / 720 * 256 / 320, rel=0.02)


def test_test_crops_are_cut_from_the_resized_picture() -> None:
    frames = _frames(2, 60, 90)
    resized = F.resize(frames, [55, 82], antialias=True)
    left, right, center = TestTransform(PIXELS, num_crops=3)(frames)
    assert resized_size((60, 90), (48, 40), "short") == (55, 82)
    for crop, x in ((left, 0), (right, 40), (center, 20)):
        assert torch.equal(crop, PIXELS.normalise(resized[..., 2:50, x : x + 40]))


def test_geometry_of_other_sizes() -> None:
    assert resized_size((240, 320), (336, 336), "short") == (384, 512)
    assert resized_size((240, 320), (336, 336), "squash") == (384, 480)
    assert resized_size((240, 320), (64, 64), "squash") == (73, 91)
    for source in ((1, 1), (3, 500), (500, 3), (64, 65)):
        for crop in ((64, 64), (48, 40), (7, 9)):
            for mode in ("short", "squash"):
                scaled = resized_size(source, crop, mode)
                for num_crops in (1, 3, 5):
                    for box in crop_boxes(scaled, crop, num_crops):
                        assert 0 <= box.top <= scaled[0] - crop[0]
                        assert 0 <= box.left <= scaled[1] - crop[1]


# colour


def test_grayscale_share() -> None:
    transform = TrainTransform(PIXELS, grayscale=0.25)
    frames = _still(2)
    neutral = torch.tensor(PIXELS.std).view(3, 1, 1), torch.tensor(PIXELS.mean).view(3, 1, 1)
    grey = 0
    for seed in range(400):
        clip, _ = transform(frames, 0, _generator(seed))
        red, green, blue = (clip * neutral[0] + neutral[1]).unbind(1)
        grey += bool((red - green).abs().max() < 1e-3 and (red - blue).abs().max() < 1e-3)
    assert 65 < grey < 135


def test_erasing_removes_one_rectangle_of_all_frames() -> None:
    transform = TrainTransform(PIXELS, erasing=1.0, crop_area=(1, 1))
    clip, _ = transform(torch.full((3, 3, 50, 50), 255, dtype=torch.uint8), 0, _generator(1))
    erased = clip[0, 0] == 0
    assert (clip[:, :, erased] == 0).all()
    rows, columns = erased.any(1).sum(), erased.any(0).sum()
    assert 0 < erased.sum() == rows * columns < 48 * 40
    untouched, _ = replace(transform, erasing=0.0)(torch.full((3, 3, 50, 50), 255, dtype=torch.uint8), 0, _generator(1))
    assert (untouched != 0).all()


# RandAugment


def test_rand_augment_strings() -> None:
    assert RandAugmentPolicy.parse("m7-n4-mstd0.5-inc1") == RandAugmentPolicy(7.0, 4, 0.5, 0.5)
    assert RandAugmentPolicy.parse("rand-n2-m9.5-p1") == RandAugmentPolicy(9.5, 2, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "'' is not one of m, n, mstd, p, inc"),
        ("strong", "'strong' is not one of"),
        ("m7-n4-x3", "'x3' is not one of"),
        ("m7-m8-n2", "'m8' appears twice"),
        ("m11-n2", "m must be between 0 and 10; got 11"),
        ("m7-n0", "n must be between 1 and 20; got 0"),
        ("m7-n2.5", "n must be between 1 and 20; got 2.5"),
        ("m7-n2-p2", "p must be between 0 and 1"),
        ("m7-n2-inc0", "inc must be 1"),
        ("m7", "n is missing"),
        ("n2", "m is missing"),
        ("m-7-n2", "'m' is not one of"),
    ],
)
def test_bad_rand_augment_strings(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=f"rand_augment={text!r}: .*{match}"):
        RandAugmentPolicy.parse(text)


def test_rand_augment_magnitude_reaches_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Magnitude m of 10 is m tenths of each of torchvision's ranges, with the asked-for spread."""
    used: list[tuple[str, float]] = []

    def spy(self: v2.RandAugment, image: Tensor, name: str, magnitude: float, **_: object) -> Tensor:
        used.append((name, magnitude))
        return image

    monkeypatch.setattr(v2.RandAugment, "_apply_image_or_video_transform", spy)
    with seeded_by(_generator()):
        for _ in range(300):
            rand_augment(_frames(2), RandAugmentPolicy(7, 4, 0.0, 0.5), (0, 0, 0))
    assert 500 < len(used) < 700  # half of 300 x 4
    assert {round(abs(m), 4) for name, m in used if name == "Rotate"} == {21.0}
    assert {round(abs(m), 4) for name, m in used if name == "Color"} == {0.63}
    assert {round(m, 4) for name, m in used if name == "Solarize"} == {0.3}
    assert len({name for name, _ in used}) == 14
    used.clear()
    with seeded_by(_generator()):
        for _ in range(500):
            rand_augment(_frames(2), RandAugmentPolicy(9.5, 4, 0.5, 1.0), (0, 0, 0))
    angles = torch.tensor([abs(m) / 3 for name, m in used if name == "Rotate"])
    assert angles.max() == 10  # cut
    assert 0.3 < angles.std() < 0.55


def test_rotated_corners_take_the_mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    only_rotate = {"Rotate": (lambda bins, height, width: torch.linspace(0, 30, bins), False)}
    monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", only_rotate)
    white = torch.full((2, 3, 50, 50), 255, dtype=torch.uint8)
    policy = RandAugmentPolicy(10, 1, 0.0, 1.0)
    clip, _ = TrainTransform(PIXELS, augment=policy, crop_area=(1, 1))(white, 0, _generator())
    torch.testing.assert_close(clip[:, :, 0, 0], torch.zeros(2, 3), atol=0.02, rtol=0)  # the mean, normalised


# settings


def test_bad_transforms() -> None:
    with pytest.raises(InputError, match="flip must be off, on or swap; got 'yes'"):
        TrainTransform(PIXELS, flip="yes")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="flip='swap' and label pairs go together; got flip='swap' and 0 labels"):
        TrainTransform(PIXELS, flip="swap")
    with pytest.raises(InputError, match="label pairs go together; got flip='on' and 2 labels"):
        TrainTransform(PIXELS, flip="on", flip_labels={0: 1, 1: 0})
    with pytest.raises(InputError, match="resize must be short or squash; got 'long'"):
        TestTransform(PIXELS, "long")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="the number of crops must be 1, 3 or 5; got 4"):
        TestTransform(PIXELS, num_crops=4)
    with pytest.raises(InputError, match="interpolation must be one of bicubic, bilinear, nearest; got 'area'"):
        replace(PIXELS, interpolation="area")
    with pytest.raises(InputError, match="std must be positive"):
        replace(PIXELS, std=(1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="input size must be at least 1x1"):
        replace(PIXELS, size=(0, 4))
