"""Draws pictures of a few coloured shapes over a background, with a caption that says what is there and where.

The tiny CLIP learns from these pictures; the motion clips of `data/motions.py` are made of the same parts. A `Scene` is
plain values, so that a picture can be drawn, described, or changed in one attribute. Lengths are shares of the
picture's short side, positions are measured from its middle (x to the right, y down), angles are radians, clockwise
from pointing right. Everything is drawn with Pillow at four times the size and averaged down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

SUPERSAMPLING = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 44, 44),
    "orange": (245, 142, 30),
    "yellow": (246, 218, 50),
    "green": (50, 176, 72),
    "cyan": (52, 204, 214),
    "blue": (48, 92, 226),
    "purple": (140, 62, 196),
    "pink": (246, 130, 184),
    "white": (246, 246, 246),
    "black": (18, 18, 22),
}
SIZES: dict[str, tuple[float, float]] = {"small": (0.085, 0.115), "medium": (0.14, 0.175), "large": (0.21, 0.27)}
PLACES: dict[str, tuple[float, float]] = {
    "at the top left": (-1, -1),
    "at the top": (0, -1),
    "at the top right": (1, -1),
    "at the left": (-1, 0),
    "in the middle": (0, 0),
    "at the right": (1, 0),
    "at the bottom left": (-1, 1),
    "at the bottom": (0, 1),
    "at the bottom right": (1, 1),
}
FACINGS: dict[str, float] = {"right": 0.0, "down": math.pi / 2, "left": math.pi, "up": -math.pi / 2}
TONES = ("dark", "light")
PATTERNS = ("plain", "gradient", "striped", "checkered", "noisy", "blotchy")


@dataclass(frozen=True)
class Figure:
    """One shape: what it is, where it is and how it looks.

    `front` says where the shape points; with `two_tone` its front half is bright and its back half dark, which makes
    the turning of a circle visible. `opacity` is 0 to 1.
    """

    shape: str
    colour: str
    rgb: tuple[float, float, float]
    radius: float
    x: float
    y: float
    front: float = 0.0
    two_tone: bool = True
    opacity: float = 1.0


@dataclass(frozen=True)
class Background:
    """What is behind the shapes: a pattern of two related colours, placed by `seed`."""

    pattern: str
    tone: str
    rgb: tuple[float, float, float]
    other_rgb: tuple[float, float, float]
    seed: int


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn."""

    figures: tuple[Figure, ...]
    background: Background
    noise: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A drawn scene: `pixels_HWC` is uint8 RGB."""

    pixels_HWC: NDArray[np.uint8]
    caption: str


def draw_picture(generator: np.random.Generator, *, size: int = 64) -> Picture:
    """One random square picture with its caption."""
    scene = random_scene(generator)
    return Picture(render(scene, size, size, generator), describe(scene, generator))


def random_scene(generator: np.random.Generator) -> Scene:
    """One to three shapes in different places over a random background."""
    background = random_background(generator)
    count = int(generator.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    places = generator.choice(len(PLACES), size=count, replace=False)
    figures = [random_figure(generator, background, place=list(PLACES)[index]) for index in places]
    if count > 1:  # three large shapes would hide one another
        figures = [replace(f, radius=min(f.radius, 0.17)) for f in figures]
    return Scene(tuple(figures), background, noise=float(generator.uniform(0, 8)))


def random_background(generator: np.random.Generator) -> Background:
    """A dark or a light background in two weakly coloured shades."""
    tone = str(generator.choice(TONES))
    low, high = (20, 75) if tone == "dark" else (175, 235)
    level = generator.uniform(low + 12, high - 12)
    tint = generator.uniform(-18, 18, size=3)
    step = generator.uniform(16, 30) * (1 if level < (low + high) / 2 else -1)
    first, second = (_rgb(np.clip(level + offset + tint, low, high)) for offset in (0.0, step))
    return Background(str(generator.choice(PATTERNS)), tone, first, second, int(generator.integers(2**31)))


def random_figure(
    generator: np.random.Generator, background: Background, *, place: str | None = None, shape: str | None = None
) -> Figure:
    """A shape in a colour that stands out from the background, in a named place or anywhere near the middle."""
    colour = random_colour(generator, background)
    low, high = SIZES[str(generator.choice(list(SIZES)))]
    radius = float(generator.uniform(low, high))
    if place is None:
        x, y = generator.uniform(-0.1, 0.1, size=2)
    else:
        reach = min(0.32, 0.47 - radius)
        x, y = (reach * side + generator.uniform(-0.05, 0.05) for side in PLACES[place])
    facing = FACINGS[str(generator.choice(list(FACINGS)))]
    return Figure(
        shape=shape or str(generator.choice(list(SHAPES))),
        colour=colour,
        rgb=_rgb(np.clip(np.array(COLOURS[colour]) + generator.uniform(-12, 12, size=3), 0, 255)),
        radius=radius,
        x=float(x),
        y=float(y),
        front=float(facing + generator.uniform(-0.45, 0.45)),
        two_tone=bool(generator.random() < 0.7),
        opacity=float(generator.uniform(0.25, 0.5)) if generator.random() < 0.15 else 1.0,
    )


def random_colour(generator: np.random.Generator, background: Background) -> str:
    """The name of a colour that stands out from both shades of the background."""
    shades = np.array([background.rgb, background.other_rgb])
    far = [name for name, rgb in COLOURS.items() if np.linalg.norm(shades - np.array(rgb), axis=1).min() > 110]
    return str(generator.choice(far))


def change_one_attribute(scene: Scene, generator: np.random.Generator) -> Scene:
    """The same scene with its first shape's place, size, colour, shape or facing drawn anew: a near miss."""
    figure = scene.figures[0]
    taken = {place_of(f) for f in scene.figures}
    free = [place for place in PLACES if place not in taken]
    fresh = random_figure(generator, scene.background, place=str(generator.choice(free)))
    what = str(generator.choice(["place", "size", "colour", "shape", "facing"], p=[0.35, 0.2, 0.15, 0.15, 0.15]))
    match what:
        case "place":
            figure = replace(figure, x=fresh.x, y=fresh.y)
        case "size":
            others = [name for name in SIZES if name != size_of(figure)]
            figure = replace(figure, radius=float(generator.uniform(*SIZES[str(generator.choice(others))])))
        case "colour":
            figure = replace(figure, colour=fresh.colour, rgb=fresh.rgb)
        case "shape":
            figure = replace(figure, shape=fresh.shape)
        case _:
            figure = replace(figure, front=figure.front + math.pi / 2 * int(generator.integers(1, 4)), two_tone=True)
    return replace(scene, figures=(figure, *scene.figures[1:]))


def describe(scene: Scene, generator: np.random.Generator | None = None) -> str:
    """A caption with every attribute; with a generator, some attributes are left out at random."""

    def keep(share: float) -> bool:
        return generator is None or generator.random() < share

    parts: list[str] = []
    for figure in scene.figures:
        words = [size_of(figure)] if keep(0.85) else []
        words += ["faint"] if figure.opacity < 0.6 else []
        words += [figure.colour] if keep(0.95) else []
        words += [figure.shape if keep(0.95) else "shape"]
        words += ["facing", facing_of(figure)] if (figure.two_tone or figure.shape == "arrow") and keep(0.6) else []
        words += [place_of(figure)] if keep(0.9) else []
        parts.append(_article(" ".join(words)))
    caption = " and ".join(parts)
    return f"{caption} over {describe_background(scene.background)}" if keep(0.6) else caption


def describe_background(background: Background) -> str:
    """Such as "a dark striped background"."""
    return f"a {background.tone} {background.pattern} background"


def size_of(figure: Figure) -> str:
    """The size word nearest to the figure's radius."""
    return min(SIZES, key=lambda name: abs(figure.radius - sum(SIZES[name]) / 2))


def place_of(figure: Figure) -> str:
    """The place word nearest to the figure's middle."""
    return min(PLACES, key=lambda name: math.dist((figure.x, figure.y), [0.3 * side for side in PLACES[name]]))


def facing_of(figure: Figure) -> str:
    """The direction word nearest to the figure's front."""
    return max(FACINGS, key=lambda name: math.cos(figure.front - FACINGS[name]))


def render(scene: Scene, width: int, height: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The scene as `pixels_HWC`, uint8 RGB; the generator draws the sensor noise only."""
    canvas = paint_background(scene.background, width, height)
    return finish(paint_figures(canvas, scene.figures), scene.noise, generator)


def paint_background(background: Background, width: int, height: int) -> NDArray[np.float32]:
    """The background alone, float32 `HWC` from 0 to 255; the same for the same background."""
    generator = np.random.default_rng(background.seed)
    short = min(width, height)
    xs = np.arange(width, dtype=np.float32)[None, :] / short
    ys = np.arange(height, dtype=np.float32)[:, None] / short
    angle = generator.uniform(0, math.pi)
    along = xs * math.cos(angle) + ys * math.sin(angle)
    across = ys * math.cos(angle) - xs * math.sin(angle)
    period = generator.uniform(0.1, 0.24)
    phase = generator.uniform(0, 1)
    match background.pattern:
        case "plain":
            mix = np.zeros((height, width), np.float32)
        case "gradient":
            mix = (along - along.min()) / (along.max() - along.min()) * 1.6
        case "striped":
            mix = _smooth_step(np.sin(2 * math.pi * (along / period + phase)))
        case "checkered":
            waves = np.sin(math.pi * (along / period + phase)) * np.sin(math.pi * (across / period + phase))
            mix = _smooth_step(waves)
        case "noisy":
            mix = _resized_noise(generator, 20, width, height) * 1.3
        case _:
            mix = _smooth_step(_resized_noise(generator, 5, width, height) * 2 - 1)
    colour, other = (np.array(rgb, np.float32) for rgb in (background.rgb, background.other_rgb))
    return (colour + (other - colour) * mix[..., None]).astype(np.float32)


def paint_figures(canvas_HWC: NDArray[np.float32], figures: tuple[Figure, ...]) -> NDArray[np.float32]:
    """The canvas with the figures painted over it, one after the other; the canvas itself stays as it is."""
    painted = canvas_HWC.copy()
    for figure in figures:
        _paint(painted, figure)
    return painted


def finish(canvas_HWC: NDArray[np.float32], noise: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Add sensor noise of that standard deviation (in grey levels) and round to uint8."""
    noisy = canvas_HWC + noise * generator.standard_normal(canvas_HWC.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _paint(canvas_HWC: NDArray[np.float32], figure: Figure) -> None:
    """Blend one figure into the canvas, in place, within its bounding box."""
    height, width, _ = canvas_HWC.shape
    short = min(width, height)
    centre_x, centre_y = width / 2 + figure.x * short, height / 2 + figure.y * short
    reach = figure.radius * short * 1.05 + 1
    left, right = max(0, math.floor(centre_x - reach)), min(width, math.ceil(centre_x + reach))
    top, bottom = max(0, math.floor(centre_y - reach)), min(height, math.ceil(centre_y + reach))
    if left >= right or top >= bottom or figure.opacity <= 0:
        return
    cos, sin = math.cos(figure.front), math.sin(figure.front)
    turn = np.array([[cos, sin], [-sin, cos]]) * (figure.radius * short * SUPERSAMPLING)
    corner = np.array([centre_x - left, centre_y - top]) * SUPERSAMPLING

    def mask(polygons: tuple[tuple[NDArray[np.float64], int], ...]) -> Image.Image:
        image = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
        pencil = ImageDraw.Draw(image)
        for outline, fill in polygons:
            pencil.polygon([(float(x), float(y)) for x, y in outline @ turn + corner], fill=fill)
        return image

    whole = mask(SHAPES[figure.shape])
    box = canvas_HWC[top:bottom, left:right]
    bright = np.array(figure.rgb, np.float32)
    coats = [(whole, bright)]
    if figure.two_tone:  # a dark colour gets a brighter front, every other one a darker back
        dark = bright * 0.5 if bright.max() > 100 else bright + 80
        coats = [(whole, dark), (ImageChops.darker(whole, mask(((_FRONT_HALF, 255),))), bright)]
    before = box.copy()
    for coat, rgb in coats:
        share = np.asarray(coat.reduce(SUPERSAMPLING), np.float32)[..., None] / 255
        box += (rgb - box) * share
    if figure.opacity < 1:
        box += (before - box) * (1 - figure.opacity)


def _smooth_step(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """From -1..1 to 0..1 with soft edges."""
    return np.clip(values * 3 + 0.5, 0, 1).astype(np.float32)


def _resized_noise(generator: np.random.Generator, cells: int, width: int, height: int) -> NDArray[np.float32]:
    grid = Image.fromarray((generator.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float32) / np.float32(255)


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _rgb(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _regular(corners: int, radius: float = 1.0, start: float = 0.0) -> NDArray[np.float64]:
    angles = start + 2 * math.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> NDArray[np.float64]:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def _moon() -> NDArray[np.float64]:
    outer = np.linspace(math.radians(60), math.radians(300), 40)
    inner = np.linspace(math.radians(285), math.radians(75), 30)
    rim = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    bite = np.stack([0.5 + 0.72 * np.cos(inner), 0.88 * np.sin(inner)], axis=1)
    return np.concatenate([rim, bite]) * [-1, 1] * 1.05 - [0.2, 0]


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([-y - 2.5, x], axis=1) / 15.5  # its tip is the front


def _cross() -> NDArray[np.float64]:
    a, b = 0.32, 0.95
    return np.array(
        [(b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a), (-a, -b), (a, -b), (a, -a)]
    )


# each shape is a list of outlines within the unit circle, front to the right, painted (255) or cut out (0) in order
SHAPES: dict[str, tuple[tuple[NDArray[np.float64], int], ...]] = {
    "circle": ((_regular(48, 0.92), 255),),
    "square": ((_regular(4, 1.1, math.pi / 4), 255),),
    "triangle": ((_regular(3, 1.08), 255),),
    "star": ((_star() * 1.1, 255),),
    "cross": ((_cross(), 255),),
    "ring": ((_regular(48, 1.0), 255), (_regular(48, 0.55), 0)),
    "hexagon": ((_regular(6, 1.0), 255),),
    "arrow": (
        (
            np.array([(1.05, 0), (0.1, -0.85), (0.1, -0.34), (-1.0, -0.34), (-1.0, 0.34), (0.1, 0.34), (0.1, 0.85)]),
            255,
        ),
    ),
    "heart": ((_heart(), 255),),
    "moon": ((_moon(), 255),),
}
_FRONT_HALF = np.array([(0.0, -1.5), (1.5, -1.5), (1.5, 1.5), (0.0, 1.5)])
