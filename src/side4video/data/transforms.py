"""Decoded frames become what the backbone wants to see: cropped, augmented, resized and normalised.

All of it works on a whole clip `TCHW` of uint8 RGB with torchvision's operations, so every frame of a clip gets the
same crop, mirror and colours. Crop first, augment the small picture afterwards: a third less work than the other way.

Test geometry is the released code's, to the pixel: the picture is resized to 8/7 of the input (256 for 224, or 320x256
squashed), then 1, 3 or 5 crops are cut out.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from side4video.data.randaugment import RandAugmentPolicy, rand_augment
from side4video.errors import InputError

ResizeMode = Literal["short", "squash"]
_INTERPOLATIONS = {
    "bicubic": v2.InterpolationMode.BICUBIC,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "nearest": v2.InterpolationMode.NEAREST,
}


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class PixelFormat:
    """What pixels a backbone wants: `size` is (H, W); mean and std belong to values from 0 to 1.

    Raises: InputError for an unknown interpolation, a size below 1, or a std that is not positive.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATIONS:
            raise InputError(f"interpolation must be one of {', '.join(_INTERPOLATIONS)}; got {self.interpolation!r}")
        if min(self.size) < 1:
            raise InputError(f"the input size must be at least 1x1 pixels; got {self.size}")
        if min(self.std) <= 0:
            raise InputError(f"std must be positive; got {self.std}")

    def normalise(self, frames_TCHW: Tensor) -> Tensor:
        """uint8 to float32, less the mean, divided by the standard deviation."""
        scaled = F.to_dtype(frames_TCHW, torch.float32, scale=True)
        return F.normalize(scaled, list(self.mean), list(self.std), inplace=True)

    def resize(self, frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
        """To (H, W) with the backbone's interpolation and antialiasing."""
        return F.resize(frames_TCHW, list(size), interpolation=_INTERPOLATIONS[self.interpolation], antialias=True)

    def resized_crop(self, frames_TCHW: Tensor, box: Box) -> Tensor:
        """Cut out a box and resize it to the input size."""
        return F.resized_crop(
            frames_TCHW,
            *box,
            size=list(self.size),
            interpolation=_INTERPOLATIONS[self.interpolation],
            antialias=True,
        )


@dataclass(frozen=True)
class TrainTransform:
    """Random crop, mirror, RandAugment, grey, normalise, erase: one draw of each for all frames of a clip.

    `resize="squash"` draws the crop in a picture squashed to 5:4, as for Something-Something. `flip="swap"` mirrors
    half of the clips and gives a mirrored clip the label that `flip_labels` maps its own to (labels that it lacks
    stay).

    Raises: InputError when the flip or the resize mode is unknown, when swapping has no labels to swap, or when
    `flip_labels` is given without swapping.
    """

    pixels: PixelFormat
    resize: ResizeMode = "short"
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    flip: Literal["off", "on", "swap"] = "off"
    flip_labels: Mapping[int, int] = field(default_factory=dict[int, int])
    grayscale: float = 0.0
    augment: RandAugmentPolicy | None = None
    erasing: float = 0.0

    def __post_init__(self) -> None:
        _check_resize(self.resize)
        if self.flip not in ("off", "on", "swap"):
            raise InputError(f"flip must be off, on or swap; got {self.flip!r}")
        if (self.flip == "swap") != bool(self.flip_labels):
            raise InputError(
                f"flip='swap' and label pairs go together; got flip={self.flip!r} and {len(self.flip_labels)} labels"
            )

    def __call__(self, frames_TCHW: Tensor, label: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """uint8 frames of any size to normalised float32 of the input size, and the label after the mirror."""
        with seeded_by(generator):
            clip_TCHW = self.pixels.resized_crop(frames_TCHW, self._draw_box(frames_TCHW))
            if self.flip != "off" and float(torch.rand(())) < 0.5:
                clip_TCHW = F.horizontal_flip(clip_TCHW)
                label = self.flip_labels.get(label, label)
            if self.augment is not None:
                clip_TCHW = rand_augment(clip_TCHW, self.augment, self._fill())
            if self.grayscale and float(torch.rand(())) < self.grayscale:
                clip_TCHW = F.rgb_to_grayscale(clip_TCHW, num_output_channels=3)
            clip_TCHW = self.pixels.normalise(clip_TCHW)
            if self.erasing:
                clip_TCHW = v2.RandomErasing(p=self.erasing)(clip_TCHW)
        return clip_TCHW, label

    def _draw_box(self, frames_TCHW: Tensor) -> Box:
        height, width = frames_TCHW.shape[-2:]
        if self.resize == "squash":
            # the crop is drawn in the squashed picture and carried back: one resize instead of two
            virtual_height, virtual_width = resized_size((height, width), self.pixels.size, "squash")
        else:
            virtual_height, virtual_width = height, width
        crop = v2.RandomResizedCrop(self.pixels.size, scale=self.crop_area, ratio=self.crop_aspect)
        drawn = crop.make_params([torch.empty((3, virtual_height, virtual_width), device="meta")])
        top, bottom = (round(v * height / virtual_height) for v in (drawn["top"], drawn["top"] + drawn["height"]))
        left, right = (round(v * width / virtual_width) for v in (drawn["left"], drawn["left"] + drawn["width"]))
        top, left = min(top, height - 1), min(left, width - 1)
        return Box(top, left, max(1, bottom - top), max(1, right - left))

    def _fill(self) -> tuple[int, int, int]:
        red, green, blue = (round(255 * value) for value in self.pixels.mean)
        return red, green, blue


@dataclass(frozen=True)
class TestTransform:
    """Resize, then 1, 3 or 5 crops (1: center; 3: left, right, center; 5: corners and center).

    Three crops move along the width only, also in pictures that are taller than wide, as in the released code.

    Raises: InputError when `num_crops` is not 1, 3 or 5 or the resize mode is unknown.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    pixels: PixelFormat
    resize: ResizeMode = "short"
    num_crops: int = 1

    def __post_init__(self) -> None:
        _check_resize(self.resize)
        _check_crops(self.num_crops)

    def __call__(self, frames_TCHW: Tensor) -> list[Tensor]:
        """uint8 frames to `num_crops` normalised float32 clips of the input size."""
        height, width = frames_TCHW.shape[-2:]
        scaled = resized_size((height, width), self.pixels.size, self.resize)
        resized_TCHW = self.pixels.resize(frames_TCHW, scaled)
        boxes = crop_boxes(scaled, self.pixels.size, self.num_crops)
        return [self.pixels.normalise(F.crop(resized_TCHW, *box)) for box in boxes]


def resized_size(source: tuple[int, int], crop: tuple[int, int], mode: ResizeMode) -> tuple[int, int]:
    """(H, W) that a picture is resized to before crops of size `crop` are cut out.

    `squash`: 8/7 of the crop's height and 10/7 of its width whatever the source (256x320 for 224). `short`: the same
    aspect ratio, as small as covers 8/7 of the crop (short side 256 for 224); the other side is rounded down.
    """
    height, width = source
    target_height = _round_div(8 * crop[0], 7)
    if mode == "squash":
        return target_height, _round_div(10 * crop[1], 7)
    target_width = _round_div(8 * crop[1], 7)
    if target_height * width >= target_width * height:
        return target_height, target_height * width // height
    return target_width * height // width, target_width


def crop_boxes(scaled: tuple[int, int], crop: tuple[int, int], num_crops: int) -> list[Box]:
    """Where the test crops lie: 1 center; 3 left, right, center; 5 the four corners (row by row), then the center.

    With several crops their places are multiples of a quarter of the free room, rounded down; the one center crop is
    rounded half to even. The two differ by a pixel or two in some sizes, as in the released code.

    Raises: InputError when `num_crops` is not 1, 3 or 5.
    """
    _check_crops(num_crops)
    free_height, free_width = scaled[0] - crop[0], scaled[1] - crop[1]
    if num_crops == 1:
        return [Box(round(free_height / 2), round(free_width / 2), *crop)]
    down, right = free_height // 4, free_width // 4
    places = {
        3: [(2, 0), (2, 4), (2, 2)],
        5: [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)],
    }[num_crops]
    return [Box(row * down, column * right, *crop) for row, column in places]


@contextmanager
def seeded_by(generator: torch.Generator) -> Generator[None]:
    """Let torchvision, which draws from torch's global CPU generator, draw from `generator` instead.

    The global state is put back afterwards; generators of other devices are not touched.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _round_div(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _check_resize(mode: str) -> None:
    if mode not in ("short", "squash"):
        raise InputError(f"resize must be short or squash; got {mode!r}")


def _check_crops(num_crops: int) -> None:
    if num_crops not in (1, 3, 5):
        raise InputError(f"the number of crops must be 1, 3 or 5; got {num_crops}")
