"""COCO: instances with class names or captions, and results. Also what CVAT and Label Studio export as COCO.

    annotations/instances_default.json   or any other JSON file with "images", "annotations" and "categories"
    images/…                             or beside the file, or where --images says

An annotation's "caption", or another of `TEXT_KEYS`, is an expression that means it. A box without a segmentation is no
mask and is refused.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groundscore.annotations.json_files import by_id, require_integer, require_list, require_segmentation, require_text
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.exchange.regions import (
    NewImages,
    Region,
    RegionImage,
    ToolFormat,
    ToolOptions,
    find_image,
    image_size,
    region,
)
from groundscore.reading import read_json
from groundscore.rle import area, as_json
from groundscore.writing import make_directory, write_json

TEXT_KEYS = ("caption", "captions", "expression", "expressions", "sentences", "text", "phrase")
_REMEDY = "export it again"


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the images of a COCO file, or of all of a folder."""
    for file in _files(path):
        content = read_json(file, dict, remedy=_REMEDY)
        where = str(file)
        images = by_id(require_list(content, "images", where, remedy=_REMEDY), f"{where}: image", remedy=_REMEDY)
        categories = {
            category.get("id"): str(category.get("name"))
            for category in content.get("categories") or []
            if isinstance(category, dict)
        }
        of_image: dict[int, list[dict]] = {number: [] for number in images}
        for number, annotation in enumerate(require_list(content, "annotations", where, remedy=_REMEDY)):
            image_id = require_integer(annotation, "image_id", f"{where}: annotation {number}", remedy=_REMEDY)
            if image_id not in images:
                raise UserError(f"{where}: annotation {number} is of image {image_id}, which the file does not have")
            of_image[image_id].append(annotation)
        for image_id, record in images.items():
            yield _read(record, of_image[image_id], categories, file, options)


def _read(
    record: dict, annotations: list[dict], categories: dict[Any, str], file: Path, options: ToolOptions
) -> RegionImage:
    where = f"{file}: image {record['id']}"
    name = require_text(record, "file_name", where, remedy=_REMEDY).replace("\\", "/")
    folders = [options.images] if options.images else [
        folder / sub for folder in (file.parent, file.parent.parent) for sub in ("", "images", "images/default")
    ]  # fmt: skip
    path = find_image(folders, name, where)
    stated = (record.get("height"), record.get("width"))
    size = image_size(path, where, stated if all(isinstance(one, int) for one in stated) else None)
    regions, ignored = [], np.zeros(size, np.uint8)
    for annotation in annotations:
        about = f"{file}: annotation {annotation.get('id', '?')}"
        if not annotation.get("segmentation"):
            raise UserError(
                f"{about} has no segmentation{', only a box' if annotation.get('bbox') else ''}; a mask is needed: "
                "draw it, or make it from the box with a segmenter"
            )
        mask = decode_segmentation(require_segmentation(annotation, about, remedy=_REMEDY), *size, about)
        if not mask.any():
            raise UserError(f"{about} encloses no pixel of the image; delete it")
        label = categories.get(annotation.get("category_id"))
        texts = _texts(annotation, about)
        if label is None and not texts:
            raise UserError(f"{about} has no class in 'categories' and none of {', '.join(TEXT_KEYS)}")
        if label == "ignore":
            ignored |= mask
            continue
        score = annotation.get("score")
        regions.append(region(label or texts[0], mask, texts, score if isinstance(score, float) else None))
    return RegionImage(path, name.lstrip("/"), size, tuple(regions), _rle(ignored), where)


def _rle(mask: np.ndarray) -> dict | None:
    return coco_mask.encode(np.asfortranarray(mask)) if mask.any() else None


def _texts(annotation: dict, where: str) -> list[str]:
    texts: list[str] = []
    for key in TEXT_KEYS:
        value = annotation.get(key)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            one = one.get("sent", one.get("raw")) if isinstance(one, dict) else one
            if not isinstance(one, str):
                raise UserError(f"{where}: {key!r} should be text or a list of texts, not {shown(value)}")
            texts += [one.strip()] if one.strip() else []
    return list(dict.fromkeys(texts))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = [file for file in sorted(path.rglob("*.json")) if _is_coco(file)]
    if not found:
        raise UserError(f"{path} has no .json file with 'images', 'annotations' and 'categories'")
    return found


def _is_coco(file: Path) -> bool:
    with file.open("rb") as stream:
        if stream.read(64).lstrip()[:1] != b"{":
            return False
    content = read_json(file)
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


# --- writing ----------------------------------------------------------------------------------------------------------


def write(images: Iterable[RegionImage], out: Path) -> None:
    """Write `instances.json`, masks as RLE, and the images."""
    new, content = NewImages(out / "images"), CocoContent()
    for image in images:
        content.add(image, new.add(image))
    make_directory(out / "annotations")
    write_json(out / "annotations" / "instances.json", content.instances(), ensure_ascii=False, indent=None)


def write_results(images: Iterable[RegionImage], out: Path) -> None:
    """Write `results.json`, a list with an entry for each mask, and `instances.json` with its images and categories.

    Beside COCO's keys an entry names its image's file and its text, for images that no file of annotations numbers.
    """
    content = CocoContent()
    for image in images:
        content.add(image, image.name)
    named = {image["id"]: image["file_name"] for image in content.images}
    results = [
        {
            **{key: one[key] for key in ("image_id", "category_id", "segmentation", "bbox")},
            "score": one.get("score", 1.0),
            "file_name": named[one["image_id"]],
            "text": one.get("caption") or content.categories[one["category_id"] - 1]["name"],
        }
        for one in content.annotations
    ]
    write_json(out / "results.json", results, ensure_ascii=False, indent=None)
    write_json(out / "images.json", {"images": content.images, "categories": content.categories}, ensure_ascii=False)


class CocoContent:
    """Images, annotations and categories as COCO numbers them, from 1."""

    def __init__(self):
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.categories: list[dict] = []
        self._numbers: dict[str, int] = {}

    def add(self, image: RegionImage, file_name: str) -> None:
        """Record an image and its regions."""
        height, width = image.size
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "height": height, "width": width})
        ignored = [Region("ignore", image.ignore)] if image.ignore is not None else []
        for one in (*image.regions, *ignored):
            number = self._numbers.setdefault(one.label, len(self._numbers) + 1)
            if number > len(self.categories):
                self.categories.append({"id": number, "name": one.label, "supercategory": ""})
            texts = {} if not one.texts else {"caption": one.texts[0] if len(one.texts) == 1 else list(one.texts)}
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": len(self.images),
                    "category_id": number,
                    "segmentation": as_json(one.mask),
                    "area": area(one.mask),
                    "bbox": [float(value) for value in coco_mask.toBbox(one.mask)],
                    "iscrowd": 0,
                    **texts,
                    **({} if one.score is None else {"score": float(one.score)}),
                }
            )

    def instances(self) -> dict[str, list[dict]]:
        """Returns the content of an `instances.json`."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}


def _recognises(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".json" and _is_coco(path)
    return path.is_dir() and any(_is_coco(file) for file in sorted(path.rglob("*.json"))[:20])


COCO = ToolFormat(
    "coco", "COCO instances with class names or captions, also from CVAT and Label Studio", _recognises, read, write
)
COCO_RESULTS = ToolFormat("coco_results", "COCO results: a list of masks with scores", write=write_results)
