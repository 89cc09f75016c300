"""Semantic sets beside ADE20K: label maps (COCO-Stuff, Mapillary Vistas) and parts (PASCAL-Part, PACO-LVIS).

`dataloaders/README.md` describes their layouts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groundscore.reading import read_json
from miniature.files import ALL_FORMS, POLYGONS, Form, write_json, write_odd_image
from miniature.scenes import Scene, part_masks
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
        labels = class_labels(scene, {name: indices[STUFF_NAMES.get(name, name)] for name in class_names()})
        labels[:1] = labels[-1:] = UNLABELLED
        stem = f"{1_000_000 + number:012d}"
        write_odd_image(root / "coco/train2017" / f"{stem}.jpg", scene, number, may_ignore_exif=True)
        _save(root / "cocostuff/train2017" / f"{stem}.png", Image.fromarray(labels))


def write_mapillary(root: Path, scenes: Iterator[Scene], rng: np.random.Generator) -> None:
    """Label maps with a palette; the car that takes the images is in all of them and is not evaluated."""
    names = class_names()
    colours = rng.integers(0, 256, (len(names) + 2, 3)).tolist()
    labels = [{"name": f"object--{name}", "readable": name.title(), "evaluate": True} for name in names]
    labels.append({"name": "void--ego-vehicle", "readable": "Ego Vehicle", "evaluate": False})
    labels.append({"name": "void--unlabeled", "readable": "Unlabeled", "evaluate": False})
    folder = root / "mapillary"
    entries = [{**label, "instances": False, "color": colour} for label, colour in zip(labels, colours)]
    write_json(folder / "config_v2.0.json", {"version": "2.0", "labels": entries})
    for number, scene in enumerate(scenes, start=1):
        values = class_labels(scene, {name: index for index, name in enumerate(names)})
        values[-EGO_VEHICLE_ROWS:] = len(names)
        values[:1] = len(names) + 1
        stem = f"street_{number:06d}"
        write_odd_image(folder / "training/images" / f"{stem}.jpg", scene, number, may_ignore_exif=True)
        image = Image.fromarray(values, mode="P")
        image.putpalette([value for colour in colours for value in colour])
        _save(folder / "training/v2.0/labels" / f"{stem}.png", image)


def class_names() -> list[str]:
    """All that a scene is made of: objects and grounds."""
    return [*(category.name for category in CATEGORIES), *UPPER_GROUNDS, *LOWER_GROUNDS]


def class_labels(scene: Scene, values: dict[str, int]) -> np.ndarray:
    """uint8 [H, W]: the value of what every pixel shows."""
    labels = np.full((scene.height, scene.width), values[scene.lower], np.uint8)
    labels[: scene.horizon] = values[scene.upper]
    for index, thing in enumerate(scene.objects):
        labels[scene.mask(index)] = values[thing.category]
    return labels


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


# LVIS explains some of its names.
EXPLAINED = {"ball": "ball_(for_play)", "boat": "sailing_boat", "car": "car_(automobile)"}
Target = tuple[str, np.ndarray]  # a category, and the mask of one instance


def write_pascal_part(root: Path, scenes: Iterator[Scene], rng: np.random.Generator) -> None:
    """Parts only, of categories "object:part"."""
    names = [f"{category.name}:{part}" for category in CATEGORIES for part in category.parts]
    folder = root / "vlpart/pascal_part"
    named = ((f"2010_{number:06d}.jpg", scene) for number, scene in enumerate(scenes, start=1))
    content = _annotate(folder / "VOCdevkit/VOC2010/JPEGImages", named, names, _parts, POLYGONS)
    write_json(folder / "train.json", content)


def write_paco_lvis(root: Path, scenes: Iterator[Scene], rng: np.random.Generator) -> None:
    """Objects and parts; a file name starts from `coco/`."""
    objects = [EXPLAINED.get(category.name, category.name) for category in CATEGORIES]
    parts = [f"{name}:{part}" for name, category in zip(objects, CATEGORIES) for part in category.parts]

    def targets(scene: Scene) -> Iterator[Target]:
        for index, thing in enumerate(scene.objects):
            yield EXPLAINED.get(thing.category, thing.category), scene.mask(index)
        for name, mask in _parts(scene):
            thing, part = name.split(":")
            yield f"{EXPLAINED.get(thing, thing)}:{part}", mask

    named = ((f"train2017/{2_000_000 + n:012d}.jpg", scene) for n, scene in enumerate(scenes, start=1))
    content = _annotate(root / "coco", named, objects + parts, targets, ALL_FORMS)
    write_json(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", content)


def _parts(scene: Scene) -> Iterator[Target]:
    for index, thing in enumerate(scene.objects):
        for part, mask in part_masks(scene, index).items():
            yield f"{thing.category}:{part}", mask


def _annotate(folder: Path, named: Iterator, names: list[str], targets: Any, forms: tuple[Form, ...]) -> dict:
    """The content of an annotation file, its segmentations in all of `forms`; writes the images."""
    images, annotations = [], []
    ids = {name: number for number, name in enumerate(names, start=1)}
    for number, (file_name, scene) in enumerate(named, start=1):
        write_odd_image(folder / file_name, scene, number, may_ignore_exif=True)
        images.append({"id": number, "file_name": file_name, "height": scene.height, "width": scene.width})
        for name, mask in targets(scene):
            annotation_id = len(annotations) + 1
            annotation = {"id": annotation_id, "image_id": number, "category_id": ids[name], "iscrowd": 0}
            form = forms[annotation_id % len(forms)]
            annotations.append({**annotation, "area": int(mask.sum()), "segmentation": form(mask)})
    bare = {"id": len(images) + 1, "file_name": "not_annotated.jpg", "height": 120, "width": 160}
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": [*images, bare], "annotations": annotations, "categories": categories}
