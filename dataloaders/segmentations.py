"""COCO segmentations to masks: polygons, and run lengths compressed or not.

A mask is the union of its parts, in {0, 1}: overlapping parts do not add up.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.errors import UserError


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """uint8 [height, width] in {0, 1}.

    segmentation: a list of polygons [x0, y0, x1, y1, …], a list of run-length dictionaries, or one such dictionary.
        A polygon of fewer than three points encloses nothing and adds nothing; an empty list is an empty mask.
    where: file and id, for errors.
    """
    if isinstance(segmentation, dict):
        parts = [_run_lengths(segmentation, height, width, where)]
    elif isinstance(segmentation, list):
        parts = []
        for part in segmentation:
            if isinstance(part, dict):
                parts.append(_run_lengths(part, height, width, where))
            elif len(polygon := _polygon(part, where)) >= 6:
                parts += coco_mask.frPyObjects([polygon], height, width)
    else:
        raise UserError(f"{where}: a segmentation is a list or a dictionary, not {segmentation!r:.60}")
    mask = np.zeros((height, width), np.uint8)
    for part in parts:
        mask |= coco_mask.decode(part)
    return mask


def _polygon(values: Any, where: str) -> list[float]:
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a polygon is a list of numbers, not {values!r:.60}") from error
    if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
        raise UserError(f"{where}: a polygon is a flat list x0, y0, x1, y1, … of finite numbers, not {values!r:.60}")
    return points.tolist()


def _run_lengths(rle: dict, height: int, width: int, where: str) -> dict:
    """A compressed run-length dictionary of the right size."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, Sequence) or list(size) != [height, width]:
        raise UserError(f"{where}: run lengths for an image of {size} (height, width), the image has {[height, width]}")
    if isinstance(counts, list):
        if sum(counts) != height * width:
            raise UserError(f"{where}: run lengths add up to {sum(counts)} pixels, the image has {height * width}")
        return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if isinstance(counts, str):
        counts = counts.encode("ascii", errors="replace")
    if not isinstance(counts, bytes):
        raise UserError(f"{where}: run lengths need 'counts', a list or text, not {counts!r:.60}")
    return {"size": [height, width], "counts": counts}
