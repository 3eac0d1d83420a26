"""Motion clips whose class is only in the motion, and whose direction is only in the order of the frames.

Classes come in pairs of opposites. A pair has one way of drawing; the second class is the first one played backward, so
the two are exact time reversals in distribution and an unordered set of frames says nothing about which of them it is.
Shape, colour, size, background, speed, start, path, length, picture size and noise are drawn alike for every class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from side4video.data.drawing import (
    Background,
    Figure,
    describe_background,
    finish,
    paint_background,
    paint_figures,
    random_background,
    random_figure,
    size_of,
)

NUM_FRAMES = (16, 32)
PICTURE_SIDES = (64, 72, 80)
FRAME_RATES = (8, 10, 12, 15)

Path = Callable[[float], tuple[Figure, ...]]
"""Progress from 0 to 1 -> the shapes at that moment."""


@dataclass(frozen=True)
class MotionPair:
    """Two opposite classes: their names, what a caption says of them, and how the first one is drawn."""

    forward: str
    backward: str
    forward_words: str
    backward_words: str
    make_path: Callable[[np.random.Generator, Background], Path]


@dataclass(frozen=True)
class MotionClip:
    """A drawn clip: `frames_THWC` is uint8 RGB."""

    frames_THWC: NDArray[np.uint8]
    class_name: str
    caption: str
    frame_rate: int


def motion_classes() -> list[str]:
    """The names of all classes, each next to its opposite."""
    return [name for pair in MOTION_PAIRS for name in (pair.forward, pair.backward)]


def opposites() -> dict[str, str]:
    """Every class and its opposite."""
    forward = {pair.forward: pair.backward for pair in MOTION_PAIRS}
    return forward | {second: first for first, second in forward.items()}


def draw_motion(class_name: str, generator: np.random.Generator) -> MotionClip:
    """One random clip of a class.

    Raises:
        KeyError: the class is not among `motion_classes()`.
    """
    pair, is_backward = _CLASSES[class_name]
    background = random_background(generator)
    path = pair.make_path(generator, background)
    num_frames = int(generator.integers(NUM_FRAMES[0], NUM_FRAMES[1] + 1))
    width, height = (int(side) for side in generator.choice(PICTURE_SIDES, size=2))
    noise = float(generator.uniform(0, 6))
    canvas = paint_background(background, width, height)
    moments = _progress(num_frames, generator)
    frames = [finish(paint_figures(canvas, path(moment)), noise, generator) for moment in moments]
    if is_backward:
        frames.reverse()
    words = pair.backward_words if is_backward else pair.forward_words
    # a caption names the size only where it stays the same
    caption = _caption(path(0.0), path(1.0), words, background)
    return MotionClip(np.stack(frames), class_name, caption, int(generator.choice(FRAME_RATES)))


def _progress(num_frames: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Rising values from 0 to 1: rest, a motion at varying speed, rest."""
    time = np.linspace(0, 1, num_frames)
    start, stop = generator.uniform(0, 0.15), generator.uniform(0.85, 1)
    moving = np.clip((time - start) / (stop - start), 0, 1)
    return moving ** np.exp(generator.uniform(-0.35, 0.35))


def _caption(first: tuple[Figure, ...], last: tuple[Figure, ...], words: str, background: Background) -> str:
    names: list[str] = []
    for before, after in zip(first, last, strict=True):
        size = [size_of(before)] if math.isclose(before.radius, after.radius, rel_tol=0.3) else []
        name = " ".join([*size, before.colour, before.shape])
        names.append(f"an {name}" if name[0] in "aeiou" else f"a {name}")
    return f"{' and '.join(names)} {words} over {describe_background(background)}"


def _mover(generator: np.random.Generator, background: Background) -> Figure:
    """A two-tone shape of any kind and size near the middle, pointing anywhere."""
    figure = random_figure(generator, background)
    radius = float(generator.uniform(0.13, 0.21))
    return replace(figure, radius=radius, front=float(generator.uniform(0, 2 * math.pi)), two_tone=True, opacity=1.0)


def _line(angle: float) -> Callable[[np.random.Generator, Background], Path]:
    """A shape that crosses the picture in one direction, beside the middle by a random offset."""

    def make(generator: np.random.Generator, background: Background) -> Path:
        figure = _mover(generator, background)
        heading = angle + float(generator.uniform(-0.12, 0.12))
        along = np.array([math.cos(heading), math.sin(heading)])
        aside = np.array([-along[1], along[0]]) * generator.uniform(-0.2, 0.2)
        reach, lead = float(generator.uniform(0.14, 0.28)), float(generator.uniform(-0.06, 0.06))

        def path(progress: float) -> tuple[Figure, ...]:
            x, y = aside + along * (lead + reach * (2 * progress - 1))
            return (replace(figure, x=float(x), y=float(y)),)

        return path

    return make


def _growth(generator: np.random.Generator, background: Background) -> Path:
    figure = _mover(generator, background)
    small = float(generator.uniform(0.06, 0.11))
    ratio = float(generator.uniform(2.0, 3.2))
    drift = _drift(generator)

    def path(progress: float) -> tuple[Figure, ...]:
        return (_moved(replace(figure, radius=small * ratio**progress), drift * progress),)

    return path


def _turn(generator: np.random.Generator, background: Background) -> Path:
    figure = _mover(generator, background)
    figure = replace(figure, radius=figure.radius * 1.25)
    angle = float(generator.uniform(math.radians(110), math.radians(250)))
    drift = _drift(generator)

    def path(progress: float) -> tuple[Figure, ...]:
        return (_moved(replace(figure, front=figure.front + angle * progress), drift * progress),)

    return path


def _orbit(generator: np.random.Generator, background: Background) -> Path:
    figure = _mover(generator, background)
    angle = float(generator.uniform(math.radians(210), math.radians(330)))
    start = float(generator.uniform(0, 2 * math.pi))
    distance = float(generator.uniform(0.22, 0.29))
    middle = generator.uniform(-0.05, 0.05, size=2)

    def path(progress: float) -> tuple[Figure, ...]:
        now = start + angle * progress
        x, y = middle + distance * np.array([math.cos(now), math.sin(now)])
        return (replace(figure, x=float(x), y=float(y)),)

    return path


def _meeting(generator: np.random.Generator, background: Background) -> Path:
    first = _mover(generator, background)
    second = _mover(generator, background)
    far, near = float(generator.uniform(0.28, 0.36)), float(generator.uniform(0.08, 0.13))
    heading = float(generator.uniform(0, 2 * math.pi))
    along = np.array([math.cos(heading), math.sin(heading)])
    middle = generator.uniform(-0.04, 0.04, size=2)

    def path(progress: float) -> tuple[Figure, ...]:
        half = along * (far + (near - far) * progress)
        pair = [(first, middle + half), (second, middle - half)]
        return tuple(
            replace(figure, radius=min(figure.radius, 0.14), x=float(at[0]), y=float(at[1])) for figure, at in pair
        )

    return path


def _fade(generator: np.random.Generator, background: Background) -> Path:
    figure = _mover(generator, background)
    drift = _drift(generator)
    place = generator.uniform(-0.15, 0.15, size=2)

    def path(progress: float) -> tuple[Figure, ...]:
        return (_moved(replace(figure, opacity=progress), place + drift * progress),)

    return path


def _drift(generator: np.random.Generator) -> NDArray[np.float64]:
    """A slight motion in any direction that means nothing."""
    return generator.uniform(-0.06, 0.06, size=2)


def _moved(figure: Figure, by: NDArray[np.float64]) -> Figure:
    return replace(figure, x=figure.x + float(by[0]), y=figure.y + float(by[1]))


MOTION_PAIRS: tuple[MotionPair, ...] = (
    MotionPair("move-left", "move-right", "moves to the left", "moves to the right", _line(math.pi)),
    MotionPair("move-up", "move-down", "moves up", "moves down", _line(-math.pi / 2)),
    MotionPair(
        "move-up-right",
        "move-down-left",
        "moves up and to the right",
        "moves down and to the left",
        _line(-math.pi / 4),
    ),
    MotionPair("grow", "shrink", "grows", "shrinks", _growth),
    MotionPair("turn-clockwise", "turn-anticlockwise", "turns clockwise", "turns anticlockwise", _turn),
    MotionPair("circle-clockwise", "circle-anticlockwise", "circles clockwise", "circles anticlockwise", _orbit),
    MotionPair("approach", "part", "approach each other", "move apart", _meeting),
    MotionPair("appear", "vanish", "appears", "vanishes", _fade),
)
_CLASSES = {name: (pair, name == pair.backward) for pair in MOTION_PAIRS for name in (pair.forward, pair.backward)}
