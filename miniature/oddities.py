"""What real files have and tidy ones lack: grey and rotated images, and every form of a COCO segmentation.

A loader that gets any of these wrong shows it on the miniature.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from miniature.files import JPEG_QUALITY, edge_polygons
from miniature.scenes import Scene

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


def compressed_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO run lengths as text."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def plain_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO run lengths as numbers: column by column, first those of the background."""
    values = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(values[1:] != values[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def lengths_in_a_list(mask: np.ndarray) -> list[dict[str, Any]]:
    """As refclef has them."""
    return [compressed_lengths(mask)]


Form = Callable[[np.ndarray], Any]
POLYGONS: tuple[Form, ...] = (edge_polygons, overlapping_polygons)
ALL_FORMS: tuple[Form, ...] = (edge_polygons, overlapping_polygons, plain_lengths, compressed_lengths)


def large_enough(polygons: list) -> list:
    """Those that enclose something: a lone pixel beside an object has a contour of one point."""
    return [polygon for polygon in polygons if len(polygon) >= MIN_POINTS]
