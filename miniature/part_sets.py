"""Sets with parts of objects, in COCO's format: PASCAL-Part and PACO-LVIS (see `dataloaders/README.md`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from miniature.files import write_json
from miniature.oddities import ALL_FORMS, POLYGONS, Form, write_odd_image
from miniature.scenes import Scene, part_masks
from miniature.vocabulary import CATEGORIES

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
