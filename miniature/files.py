"""How scenes become files: images, polygons, COCO records, and what real files have and tidy ones lack.

The oddities are grey and rotated images and every form of a COCO segmentation: a loader that gets one of them wrong
shows it on the miniature.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from groundscore.scoring.masks import encode_mask
from miniature.scenes import Scene
from miniature.vocabulary import CATEGORIES

JPEG_QUALITY = 92


def write_image(path: Path, scene: Scene) -> None:
    """Writes the scene's image as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path, quality=JPEG_QUALITY)


def write_json(path: Path, value: Any, *, encoding: str = "utf-8") -> None:
    """Writes `value` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=encoding == "utf-8"), encoding=encoding)


def edge_polygons(mask: np.ndarray, scale: int = 4) -> list[list[float]]:
    """COCO polygons [x0, y0, x1, y1, …] of a bool mask [H, W], along the edges of its pixels."""
    large = mask.astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, scale / 2, True)[:, 0].astype(float)
        if len(points) >= 3:
            polygons.append([round(float(value), 2) for value in ((points + 0.5) / scale).ravel()])
    return polygons


def pixel_polygons(mask: np.ndarray) -> list[list[list[int]]]:
    """LabelMe polygons [[x, y], …] of a bool mask [H, W], through its outermost pixels."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in contours]


class CocoRecords:
    """The images and objects of several scenes as the content of an `instances.json`."""

    def __init__(self, file_name: str):
        self._file_name = file_name
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._category_ids = {category.name: index + 1 for index, category in enumerate(CATEGORIES)}

    def add(self, scene: Scene) -> tuple[int, list[int]]:
        """Record a scene: its image id and the annotation ids of its objects. The id determines the file name."""
        image_id = len(self._images) + 1
        name = self.name_of(image_id)
        self._images.append({"id": image_id, "file_name": name, "height": scene.height, "width": scene.width})
        ids = []
        for index, thing in enumerate(scene.objects):
            mask = scene.mask(index)
            rows, columns = np.nonzero(mask)
            left, top = int(columns.min()), int(rows.min())
            annotation = {
                "id": len(self._annotations) + 1,
                "image_id": image_id,
                "category_id": self._category_ids[thing.category],
                "segmentation": edge_polygons(mask),
                "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
            self._annotations.append(annotation)
            ids.append(annotation["id"])
        return image_id, ids

    def name_of(self, image_id: int) -> str:
        """File name of the image with this id."""
        return self._file_name.format(image_id)

    def category_id(self, name: str) -> int:
        """Id of a category."""
        return self._category_ids[name]

    def content(self) -> dict[str, list[dict]]:
        """The content of an `instances.json`."""
        categories = [{"id": number, "name": name} for name, number in self._category_ids.items()]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}


ORIENTATION = 0x0112  # the EXIF tag
TURN_RIGHT = 6  # its value for: turn by 90 degrees clockwise to see the image upright
MIN_POINTS = 3


def write_odd_image(path: Path, scene: Scene, number: int, *, may_ignore_exif: bool = False) -> None:
    """A scene as a JPEG; of every ten one is grey, and one is rotated with an EXIF tag.

    may_ignore_exif: yet another has a tag that its annotations ignore, as in sets that were annotated without looking
        at EXIF. Only their height and width tell.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(scene.image)
    exif = Image.Exif()
    if number % 10 == 2:
        image = image.convert("L")
    elif number % 10 == 3:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = TURN_RIGHT
    elif number % 10 == 4 and may_ignore_exif and scene.width != scene.height:
        exif[ORIENTATION] = TURN_RIGHT
    image.save(path, quality=JPEG_QUALITY, exif=exif)


def overlapping_polygons(mask: np.ndarray) -> list[list[float]]:
    """The mask as polygons of its left and its right part, which share a strip."""
    columns = np.flatnonzero(mask.any(0))
    left, right = mask.copy(), mask.copy()
    left[:, columns[2 * len(columns) // 3] :] = False
    right[:, : columns[len(columns) // 3]] = False
    return edge_polygons(left) + edge_polygons(right)


def plain_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO run lengths as numbers: column by column, first those of the background."""
    values = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(values[1:] != values[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def lengths_in_a_list(mask: np.ndarray) -> list[dict[str, Any]]:
    """As refclef has them."""
    return [encode_mask(mask)]


Form = Callable[[np.ndarray], Any]
POLYGONS: tuple[Form, ...] = (edge_polygons, overlapping_polygons)
ALL_FORMS: tuple[Form, ...] = (edge_polygons, overlapping_polygons, plain_lengths, encode_mask)


def large_enough(polygons: list) -> list:
    """Those that enclose something: a lone pixel beside an object has a contour of one point."""
    return [polygon for polygon in polygons if len(polygon) >= MIN_POINTS]
