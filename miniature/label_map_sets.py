"""Densely labelled sets beside ADE20K: COCO-Stuff and Mapillary Vistas (see `dataloaders/README.md`)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from groundscore.reading import read_json
from miniature.files import write_json
from miniature.oddities import write_odd_image
from miniature.scenes import Scene
from miniature.vocabulary import CATEGORIES, LOWER_GROUNDS, UPPER_GROUNDS

STUFF_CLASSES = Path(__file__).parent.parent / "groundscore/annotations/cocostuff_classes.json"
# Where COCO-Stuff has another name; those with a hyphen are never asked for. It has no floor of its own.
STUFF_NAMES = {
    "ball": "sports ball",
    "flag": "banner",
    "wall": "wall-concrete",
    "water": "river",
    "floor": "floor-tile",
}
UNLABELLED = 255
EGO_VEHICLE_ROWS = 6


def write_cocostuff(root: Path, scenes: Iterator[Scene], rng: np.random.Generator) -> None:
    """Label maps of class indices, the outermost rows unlabelled."""
    indices = {name: index for index, name in enumerate(read_json(STUFF_CLASSES, list))}
    for number, scene in enumerate(scenes, start=1):
        labels = _labels(scene, {name: indices[STUFF_NAMES.get(name, name)] for name in _names()})
        labels[:1] = labels[-1:] = UNLABELLED
        stem = f"{1_000_000 + number:012d}"
        write_odd_image(root / "coco/train2017" / f"{stem}.jpg", scene, number, may_ignore_exif=True)
        _save(root / "cocostuff/train2017" / f"{stem}.png", Image.fromarray(labels))


def write_mapillary(root: Path, scenes: Iterator[Scene], rng: np.random.Generator) -> None:
    """Label maps with a palette; the car that takes the images is in all of them and is not evaluated."""
    names = _names()
    colours = rng.integers(0, 256, (len(names) + 2, 3)).tolist()
    labels = [{"name": f"object--{name}", "readable": name.title(), "evaluate": True} for name in names]
    labels.append({"name": "void--ego-vehicle", "readable": "Ego Vehicle", "evaluate": False})
    labels.append({"name": "void--unlabeled", "readable": "Unlabeled", "evaluate": False})
    folder = root / "mapillary"
    entries = [{**label, "instances": False, "color": colour} for label, colour in zip(labels, colours)]
    write_json(folder / "config_v2.0.json", {"version": "2.0", "labels": entries})
    for number, scene in enumerate(scenes, start=1):
        values = _labels(scene, {name: index for index, name in enumerate(names)})
        values[-EGO_VEHICLE_ROWS:] = len(names)
        values[:1] = len(names) + 1
        stem = f"street_{number:06d}"
        write_odd_image(folder / "training/images" / f"{stem}.jpg", scene, number, may_ignore_exif=True)
        image = Image.fromarray(values, mode="P")
        image.putpalette([value for colour in colours for value in colour])
        _save(folder / "training/v2.0/labels" / f"{stem}.png", image)


def _names() -> list[str]:
    """All that a scene is made of: objects and grounds."""
    return [*(category.name for category in CATEGORIES), *UPPER_GROUNDS, *LOWER_GROUNDS]


def _labels(scene: Scene, values: dict[str, int]) -> np.ndarray:
    """uint8 [H, W]: the value of what every pixel shows."""
    labels = np.full((scene.height, scene.width), values[scene.lower], np.uint8)
    labels[: scene.horizon] = values[scene.upper]
    for index, thing in enumerate(scene.objects):
        labels[scene.mask(index)] = values[thing.category]
    return labels


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
