"""Pictures show what their captions say, and the same seed draws the same picture."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from side4video.data import drawing
from side4video.data.drawing import Background, Figure, Scene

GREY = Background("plain", "dark", (40.0, 40.0, 40.0), (60.0, 60.0, 60.0), seed=3)
RED = Figure("circle", "red", (220.0, 40.0, 40.0), radius=0.15, x=0.0, y=0.0, two_tone=False)


def draw(*figures: Figure, width: int = 96, height: int = 72, background: Background = GREY) -> np.ndarray:
    return drawing.render(Scene(figures, background), width, height, np.random.default_rng(0)).astype(float)


def changed(*figures: Figure, **size: int) -> np.ndarray:
    """Share of each pixel that the figures cover."""
    return np.abs(draw(*figures, **size) - draw(**size)).max(axis=2) / 180


def test_the_same_seed_draws_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (drawing.draw_picture(np.random.default_rng(seed), size=48) for seed in (5, 5, 6))
    assert first.pixels_HWC.shape == (48, 48, 3)
    assert first.pixels_HWC.dtype == np.uint8
    assert first.caption == again.caption
    np.testing.assert_array_equal(first.pixels_HWC, again.pixels_HWC)
    assert (first.pixels_HWC != other.pixels_HWC).any()


def test_a_circle_has_its_area_and_its_place() -> None:
    cover = changed(replace(RED, x=0.2, y=-0.1))
    radius = 0.15 * 72 * 0.92
    assert cover.sum() == pytest.approx(math.pi * radius**2, rel=0.03)
    rows, columns = np.mgrid[0:72, 0:96] + 0.5
    assert (cover * columns).sum() / cover.sum() == pytest.approx(48 + 0.2 * 72, abs=0.3)
    assert (cover * rows).sum() / cover.sum() == pytest.approx(36 - 0.1 * 72, abs=0.3)


def test_edges_are_soft() -> None:
    cover = changed(RED)
    assert ((cover > 0.1) & (cover < 0.9)).sum() > 20


@pytest.mark.parametrize("shape", drawing.SHAPES)
def test_every_shape_stays_within_its_radius_and_covers_something(shape: str) -> None:
    cover = changed(replace(RED, shape=shape))
    rows, columns = np.nonzero(cover > 0.5)
    distance = np.hypot(columns + 0.5 - 48, rows + 0.5 - 36)
    assert len(distance) > 80
    assert distance.max() < 0.15 * 72 * 1.13 + 1


@pytest.mark.parametrize(("word", "angle"), drawing.FACINGS.items())
def test_the_front_half_is_the_bright_one(word: str, angle: float) -> None:
    figure = replace(RED, front=angle, two_tone=True)
    assert drawing.facing_of(figure) == word
    red = draw(figure)[..., 0]
    step = 0.07 * 72
    ahead = red[round(36 + step * math.sin(angle)), round(48 + step * math.cos(angle))]
    behind = red[round(36 - step * math.sin(angle)), round(48 - step * math.cos(angle))]
    assert ahead > 200
    assert behind < 130


def test_opacity_mixes_with_the_background() -> None:
    middle = (36, 48)
    full, faint, none = (draw(replace(RED, opacity=share))[middle] for share in (1.0, 0.25, 0.0))
    np.testing.assert_allclose(faint, none + 0.25 * (full - none), atol=1)


def test_a_figure_outside_the_picture_changes_nothing() -> None:
    assert changed(replace(RED, x=2.0)).max() == 0


@pytest.mark.parametrize("place", drawing.PLACES)
def test_words_name_what_is_drawn(place: str) -> None:
    generator = np.random.default_rng(11)
    for _ in range(40):
        background = drawing.random_background(generator)
        figure = drawing.random_figure(generator, background, place=place)
        assert drawing.place_of(figure) == place
        low, high = drawing.SIZES[drawing.size_of(figure)]
        assert low <= figure.radius <= high
        shades = np.array([background.rgb, background.other_rgb])
        assert np.linalg.norm(shades - np.array(drawing.COLOURS[figure.colour]), axis=1).min() > 110


def test_a_whole_caption() -> None:
    scene = Scene((replace(RED, two_tone=True), replace(RED, shape="star", colour="orange", radius=0.25, x=0.3)), GREY)
    assert drawing.describe(scene) == (
        "a medium red circle facing right in the middle and a large orange star at the right "
        "over a dark plain background"
    )


def test_a_near_miss_differs_in_one_attribute_of_the_first_figure() -> None:
    generator = np.random.default_rng(2)
    seen: set[str] = set()
    for _ in range(200):
        scene = drawing.random_scene(generator)
        near = drawing.change_one_attribute(scene, generator)
        assert near.figures[1:] == scene.figures[1:]
        assert near.background == scene.background
        one, other = scene.figures[0], near.figures[0]
        differing = {
            "place": (one.x, one.y) != (other.x, other.y),
            "size": one.radius != other.radius,
            "colour": one.colour != other.colour,
            "shape": one.shape != other.shape,
            "facing": one.front != other.front,
        }
        changes = {name for name, differs in differing.items() if differs}
        assert len(changes) <= 1, changes
        seen |= changes
    assert seen == {"place", "size", "colour", "shape", "facing"}


@pytest.mark.parametrize("pattern", drawing.PATTERNS)
def test_backgrounds_depend_on_their_seed_and_stay_between_their_shades(pattern: str) -> None:
    one = replace(GREY, pattern=pattern)
    canvas = drawing.paint_background(one, 50, 40)
    assert canvas.shape == (40, 50, 3)
    np.testing.assert_array_equal(canvas, drawing.paint_background(one, 50, 40))
    assert canvas.min() > 30
    assert canvas.max() < 90
    if pattern != "plain":
        assert (canvas != drawing.paint_background(replace(one, seed=4), 50, 40)).any()
        assert canvas.std() > 2
