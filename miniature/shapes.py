"""How each category looks: polygons in a box from -1 to 1, y downwards, painted in order."""

from collections.abc import Callable, Iterator

import numpy as np

Colour = tuple[float, float, float]
Part = tuple[list[tuple[float, float]], Colour]

WHITE = (245.0, 245.0, 240.0)
BLACK = (30.0, 30.0, 34.0)
BROWN = (116.0, 78.0, 48.0)
GREY = (96.0, 98.0, 104.0)
STEM = (70.0, 110.0, 60.0)
GLASS = (188.0, 216.0, 232.0)


def outline_parts(category: str, colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    """The parts of an object as (polygon, colour); `colour` is that of its main part, `rng` varies details."""
    return SHAPES[category](colour, rng)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    return tuple(a * (1 - share) + b * share for a, b in zip(colour, other))


def _dark(colour: Colour) -> Colour:
    return _mix(colour, BLACK, 0.4)


def _light(colour: Colour) -> Colour:
    return _mix(colour, WHITE, 0.55)


def _disc(x: float, y: float, radius: float, squash: float = 1.0) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return [(x + radius * np.cos(a), y + radius * squash * np.sin(a)) for a in angles]


def _box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _stick(start: tuple[float, float], end: tuple[float, float], width: float) -> list[tuple[float, float]]:
    (x0, y0), (x1, y1) = start, end
    length = np.hypot(x1 - x0, y1 - y0)
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]


def _ball(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield _disc(0, 0, 0.95), colour
    tilt = rng.uniform(-0.35, 0.35)
    yield [(-0.93, -0.12 - tilt), (0.93, -0.12 + tilt), (0.93, 0.2 + tilt), (-0.93, 0.2 - tilt)], _light(colour)
    yield _disc(-0.35, -0.5, 0.16), WHITE


def _house(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield _box(-0.74, -0.1, 0.74, 0.95), colour
    yield [(-0.98, -0.08), (0, -0.95), (0.98, -0.08)], _dark(colour)
    side = rng.choice([-1, 1])
    yield _box(side * 0.08, 0.4, side * 0.48, 0.95), BROWN
    yield _box(-side * 0.15, 0.2, -side * 0.55, 0.58), GLASS


def _tree(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield _box(-0.15, 0.2, 0.15, 0.95), BROWN
    yield _disc(-0.42, 0.0, 0.45), colour
    yield _disc(0.42, 0.0, 0.45), colour
    yield _disc(0, -0.42, 0.52), colour
    yield _disc(rng.uniform(-0.3, 0.3), rng.uniform(-0.5, 0.1), 0.14), _dark(colour)
    yield _disc(rng.uniform(-0.4, 0.4), rng.uniform(-0.5, 0.1), 0.12), _light(colour)


def _flower(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield _stick((0, -0.3), (0, 0.95), 0.13), STEM
    yield [(0, 0.7), (0.45, 0.35), (0.42, 0.6), (0.05, 0.85)], STEM
    start = rng.uniform(0, np.pi / 3)
    for k in range(6):
        angle = start + k * np.pi / 3
        yield _disc(0.38 * np.cos(angle), -0.34 + 0.38 * np.sin(angle), 0.26), colour
    yield _disc(0, -0.34, 0.22), WHITE


def _boat(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield _stick((-0.05, -0.95), (-0.05, 0.4), 0.09), BROWN
    yield [(0.04, -0.9), (0.04, 0.22), (0.8, 0.22)], WHITE
    yield [(-0.14, -0.7), (-0.14, 0.22), (-0.65, 0.22)], _light(colour)
    yield [(-0.98, 0.36), (0.98, 0.36), (0.62, 0.92), (-0.62, 0.92)], colour


def _bottle(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    right = [(0.15, -0.7), (0.17, -0.3), (0.42, 0.0), (0.42, 0.95)]
    yield right + [(-x, y) for x, y in reversed(right)], colour
    yield _box(-0.19, -0.95, 0.19, -0.7), _dark(colour)
    top = rng.uniform(0.15, 0.3)
    yield _box(-0.42, top, 0.42, top + 0.36), WHITE


def _clock(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield _disc(0, 0, 0.95), colour
    yield _disc(0, 0, 0.66), WHITE
    for length, width in ((0.58, 0.1), (0.4, 0.14)):
        angle = rng.uniform(0, 2 * np.pi)
        yield _stick((0, 0), (length * np.cos(angle), length * np.sin(angle)), width), BLACK


def _flag(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield _stick((-0.72, -0.98), (-0.72, 0.98), 0.12), GREY
    wave = rng.uniform(0.05, 0.14)
    top = [(x, -0.92 + wave * np.sin(3 * x)) for x in np.linspace(-0.68, 0.95, 12)]
    bottom = [(x, 0.12 + wave * np.sin(3 * x)) for x in np.linspace(0.95, -0.68, 12)]
    yield top + bottom, colour
    top = [(x, -0.55 + wave * np.sin(3 * x)) for x in np.linspace(-0.68, 0.95, 12)]
    bottom = [(x, -0.25 + wave * np.sin(3 * x)) for x in np.linspace(0.95, -0.68, 12)]
    yield top + bottom, WHITE


def _car(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    nose = rng.choice([-1, 1])
    yield [(-0.55 * nose, -0.5), (0.35 * nose, -0.5), (0.62 * nose, 0.02), (-0.75 * nose, 0.02)], colour
    yield [(-0.48 * nose, -0.38), (0.28 * nose, -0.38), (0.46 * nose, -0.02), (-0.6 * nose, -0.02)], GLASS
    yield _box(-0.98, 0.0, 0.98, 0.48), colour
    for x in (-0.54, 0.54):
        yield _disc(x, 0.48, 0.26), BLACK
        yield _disc(x, 0.48, 0.11), GREY


def _tent(colour: Colour, rng: np.random.Generator) -> Iterator[Part]:
    yield [(0, -0.85), (0.98, 0.85), (-0.98, 0.85)], colour
    shift = rng.uniform(-0.1, 0.1)
    yield [(0, -0.35), (0.34 + shift, 0.85), (-0.34 + shift, 0.85)], BLACK
    yield [(0, -0.85), (0.1, -0.68), (-0.86, 0.85), (-0.98, 0.85)], _light(colour)


SHAPES: dict[str, Callable[[Colour, np.random.Generator], Iterator[Part]]] = {
    "ball": _ball,
    "house": _house,
    "tree": _tree,
    "flower": _flower,
    "boat": _boat,
    "bottle": _bottle,
    "clock": _clock,
    "flag": _flag,
    "car": _car,
    "tent": _tent,
}

# What each polygon of a category is called, in the order in which they are painted; None where it has no name.
PART_NAMES: dict[str, tuple[str | None, ...]] = {
    "ball": (None, "stripe", None),
    "house": (None, "roof", "door", "window"),
    "tree": ("trunk", *["crown"] * 5),
    "flower": ("stem", "stem", *["petals"] * 6, None),
    "boat": (None, "sail", "sail", "hull"),
    "bottle": (None, "cap", None),
    "clock": (None, "face", "hands", "hands"),
    "flag": ("pole", "cloth", "cloth"),
    "car": (None, "windows", None, *["wheels"] * 4),
    "tent": (None, "opening", None),
}
