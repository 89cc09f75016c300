"""Scenes of the miniature's world: what stands where, drawn as an image with a mask for every object.

Objects are polygons in a unit box, turned, stretched and shaded a little, drawn large and scaled down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from miniature.shapes import PART_NAMES, Colour, outline_parts
from miniature.vocabulary import CATEGORIES, COLOURS, LOWER_GROUNDS, SIZES, UPPER_GROUNDS

OVERSAMPLING = 4
MIN_VISIBLE = 0.75  # share of an object that no other may cover
SIDE_RANGE = (112, 160)


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, its centre and half extent in pixels, and the seed of its shape's variation."""

    category: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    seed: int


@dataclass(frozen=True)
class Drawing:
    """A drawn scene.

    image uint8 [H, W, 3]; owners uint8 [H, W]: 0 for ground, k + 1 where object k is visible; areas: the pixels that
    each object would have alone.
    """

    image: np.ndarray
    owners: np.ndarray
    areas: list[int]


@dataclass
class Scene:
    """What is drawn: size in pixels, the grounds above and below the horizon, and the objects from back to front."""

    width: int
    height: int
    upper: str
    lower: str
    horizon: int
    seed: int
    objects: list[SceneObject] = field(default_factory=list)

    @cached_property
    def drawing(self) -> Drawing:
        """What the scene looks like, drawn once."""
        return draw(self)

    @property
    def image(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self.drawing.image

    def mask(self, *indices: int) -> np.ndarray:
        """bool [H, W]: where any of the objects with these indices is visible."""
        return np.isin(self.drawing.owners, [index + 1 for index in indices])


def random_scene(seed: int, counts: tuple[int, int] = (2, 4)) -> Scene:
    """The scene of a seed: `counts` bounds the number of objects, of which at most two are large."""
    rng = np.random.default_rng(seed)
    while True:
        scene = _propose(rng, seed, int(rng.integers(counts[0], counts[1] + 1)))
        if len(scene.objects) < counts[0]:
            continue
        visible = np.bincount(scene.drawing.owners.ravel(), minlength=len(scene.objects) + 1)[1:]
        if all(count >= MIN_VISIBLE * area for count, area in zip(visible, scene.drawing.areas)):
            return scene


def _propose(rng: np.random.Generator, seed: int, count: int) -> Scene:
    width, height = (int(side) for side in rng.integers(SIDE_RANGE[0], SIDE_RANGE[1] + 1, 2))
    scene = Scene(
        width=width,
        height=height,
        upper=str(rng.choice(list(UPPER_GROUNDS))),
        lower=str(rng.choice(list(LOWER_GROUNDS))),
        horizon=int(height * rng.uniform(0.3, 0.6)),
        seed=seed,
    )
    shorter = min(width, height)
    categories = [category.name for category in CATEGORIES]
    repeated = str(rng.choice(categories)) if rng.random() < 0.45 else None
    large = 0
    for _ in range(60):
        if len(scene.objects) == count:
            break
        is_repeat = repeated is not None and len(scene.objects) < 2
        category = repeated if is_repeat else str(rng.choice(categories))
        size = "large" if large < 2 and rng.random() < 0.5 else "small"
        radius = SIZES[size] * shorter * rng.uniform(0.92, 1.08)
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if any(np.hypot(x - o.x, y - o.y) < 0.95 * (radius + o.radius) for o in scene.objects):
            continue
        colour = str(rng.choice(list(COLOURS)))
        large += size == "large"
        scene.objects.append(SceneObject(category, colour, size, x, y, radius, int(rng.integers(2**31))))
    return scene


def draw(scene: Scene) -> Drawing:
    """Paint the objects over the ground, back to front."""
    image = _draw_ground(scene)
    owners = np.zeros((scene.height, scene.width), dtype=np.uint8)
    areas = []
    for index, thing in enumerate(scene.objects):
        place, colours, cover = _draw_object(thing, scene.width, scene.height)
        image[place] = image[place] * (1 - cover[..., None]) + colours * cover[..., None]
        owners[place][cover > 0.5] = index + 1
        areas.append(int((cover > 0.5).sum()))
    return Drawing(np.clip(image + 0.5, 0, 255).astype(np.uint8), owners, areas)


def _draw_ground(scene: Scene) -> np.ndarray:
    """float32 [H, W, 3]: two bands with a gradient, soft blotches and fine noise."""
    rng = np.random.default_rng(scene.seed + 1)
    image = np.empty((scene.height, scene.width, 3), dtype=np.float32)
    image[: scene.horizon] = UPPER_GROUNDS[scene.upper]
    image[scene.horizon :] = LOWER_GROUNDS[scene.lower]
    slope = np.linspace(-10, 10, scene.height, dtype=np.float32) * rng.choice([-1, 1])
    blotches = rng.normal(0, 9, (6, 6)).astype(np.float32)
    blotches = cv2.resize(blotches, (scene.width, scene.height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 4, (scene.height, scene.width)).astype(np.float32)
    return image + (slope[:, None] + blotches + noise)[..., None]


def _draw_object(thing: SceneObject, width: int, height: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The object alone: its position in the image, its colours float32 [h, w, 3] there and coverage [h, w] in 0..1."""
    left, top, right, bottom = _reach(thing, width, height)
    size = (right - left, bottom - top)
    canvas = np.zeros((size[1] * OVERSAMPLING, size[0] * OVERSAMPLING, 3), dtype=np.float32)
    cover = np.zeros(canvas.shape[:2], dtype=np.float32)
    for polygon, colour in _placed_outlines(thing, left, top):
        cv2.fillPoly(canvas, [polygon], tuple(float(value) for value in colour))
        cv2.fillPoly(cover, [polygon], 1.0)
    canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    cover = cv2.resize(cover, size, interpolation=cv2.INTER_AREA)
    colours = canvas / np.maximum(cover, 1e-6)[..., None]
    columns = (np.arange(left, right) - thing.x) / thing.radius
    rows = (np.arange(top, bottom) - thing.y) / thing.radius
    shade = 1 - 0.12 * (columns[None] + rows[:, None])  # lit from the upper left
    return (slice(top, bottom), slice(left, right)), np.clip(colours * shade[..., None], 0, 255), cover


def part_masks(scene: Scene, index: int) -> dict[str, np.ndarray]:
    """Where the named parts of object `index` are visible, bool [H, W] by name; parts without a pixel are left out."""
    thing = scene.objects[index]
    left, top, right, bottom = _reach(thing, scene.width, scene.height)
    owners = np.zeros(((bottom - top) * OVERSAMPLING, (right - left) * OVERSAMPLING), np.uint8)
    names = PART_NAMES[thing.category]
    for number, (polygon, _) in enumerate(_placed_outlines(thing, left, top), start=1):
        cv2.fillPoly(owners, [polygon], number)
    owners = owners[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING]
    found = {}
    for name in dict.fromkeys(filter(None, names)):
        mask = np.zeros((scene.height, scene.width), bool)
        numbers = [number for number, each in enumerate(names, start=1) if each == name]
        mask[top:bottom, left:right] = np.isin(owners, numbers)
        mask &= scene.mask(index)
        if mask.any():
            found[name] = mask
    return found


def _reach(thing: SceneObject, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels that the object may touch."""
    reach = 1.4 * thing.radius
    left, top = max(int(thing.x - reach), 0), max(int(thing.y - reach), 0)
    return left, top, min(int(thing.x + reach) + 1, width), min(int(thing.y + reach) + 1, height)


def _placed_outlines(thing: SceneObject, left: int, top: int) -> Iterator[tuple[np.ndarray, Colour]]:
    """The object's polygons int32 [N, 2] on a canvas from (left, top), `OVERSAMPLING` times as large, back to front."""
    rng = np.random.default_rng(thing.seed)
    angle = np.deg2rad(rng.uniform(-8, 8))
    stretch = rng.uniform(0.9, 1.1, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for points, colour in outline_parts(thing.category, COLOURS[thing.colour], rng):
        placed = (np.asarray(points) * stretch * thing.radius) @ turn.T + (thing.x - left, thing.y - top)
        yield np.round(placed * OVERSAMPLING).astype(np.int32), colour
