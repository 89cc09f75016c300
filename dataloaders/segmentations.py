"""COCO segmentations to masks: polygons, and run lengths compressed or not.

A mask is the union of its parts, in {0, 1}: overlapping parts do not add up. What cannot be a part of the picture is an
error: a polygon of fewer than three points, one that reaches far outside, run lengths of another size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.errors import UserError, shown

OVERSHOOT = 0.02  # annotators' polygons may end outside the picture, by so much of its longer side


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """uint8 [height, width] in {0, 1}.

    segmentation: a list of polygons [x0, y0, x1, y1, …], a list of run-length dictionaries, or one such dictionary.
        An empty list is an empty mask.
    where: file and id, for errors.
    """
    if isinstance(segmentation, dict):
        parts = [_run_lengths(segmentation, height, width, where)]
    elif isinstance(segmentation, list):
        parts = []
        for part in segmentation:
            if isinstance(part, dict):
                parts.append(_run_lengths(part, height, width, where))
            else:
                parts += coco_mask.frPyObjects([_polygon(part, height, width, where)], height, width)
    else:
        raise UserError(f"{where}: a segmentation is a list or a dictionary, not {shown(segmentation)}")
    mask = np.zeros((height, width), np.uint8)
    for part in parts:
        mask |= coco_mask.decode(part)
    return mask


def check_points(points: np.ndarray, height: int, width: int, where: str) -> None:
    """Refuse the corners [N, 2] of a polygon that encloses nothing, or that was drawn in another picture."""
    if len(points) < 3:
        raise UserError(f"{where}: a polygon needs three points, this one has {len(points)}: {points.tolist()}")
    margin = max(1.0, OVERSHOOT * max(height, width))
    low, high = points.min(0), points.max(0)
    if min(low) < -margin or high[0] > width + margin or high[1] > height + margin:
        raise UserError(
            f"{where}: a polygon reaches from {low.tolist()} to {high.tolist()} (x, y), outside the image of "
            f"{width} × {height}"
        )


def _polygon(values: Any, height: int, width: int, where: str) -> list[float]:
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a polygon is a list of numbers, not {shown(values)}") from error
    if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
        raise UserError(f"{where}: a polygon is a flat list x0, y0, x1, y1, … of finite numbers, not {shown(values)}")
    check_points(points.reshape(-1, 2), height, width, where)
    return points.tolist()


def _run_lengths(rle: dict, height: int, width: int, where: str) -> dict:
    """A compressed run-length dictionary of the right size."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, Sequence) or list(size) != [height, width]:
        raise UserError(f"{where}: run lengths for an image of {size} (height, width), the image has {[height, width]}")
    if isinstance(counts, str):
        counts = counts.encode("ascii", errors="replace")
    if isinstance(counts, list) and all(isinstance(count, int) for count in counts):
        lengths = counts
    elif isinstance(counts, bytes):
        lengths = _uncompress(counts, where)
    else:
        raise UserError(f"{where}: run lengths need 'counts', a list of numbers or text, not {shown(counts)}")
    if any(length < 0 for length in lengths):
        raise UserError(f"{where}: a run of {min(lengths)} pixels; run lengths are 0 or more")
    if sum(lengths) != height * width:
        raise UserError(f"{where}: run lengths add up to {sum(lengths)} pixels, the image has {height * width}")
    # Its own reading of damaged text takes pycocotools beyond the end of the text: it is given the numbers instead.
    return coco_mask.frPyObjects({"size": [height, width], "counts": lengths}, height, width)


def _uncompress(counts: bytes, where: str) -> list[int]:
    """The run lengths in COCO's text form.

    A number is written in groups of five bits, the lowest first, with bit 6 set on all but the last; from the fourth on
    it is the difference to the length two places before.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        group = character - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise UserError(f"{where}: the text of the run lengths breaks off in the middle of a number")
    return lengths
