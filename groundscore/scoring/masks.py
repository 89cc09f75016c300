"""Masks as COCO run lengths."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError, shown


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W], pixels that are not 0, as `{"size": [H, W], "counts": text}`."""
    encoded = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(length) for length in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(lengths: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Run lengths, compressed or not, as uint8 [H, W] in {0, 1}.

    size: (H, W) that the mask must have; where: file and line, for errors.
    """
    if not isinstance(lengths, dict):
        raise UserError(f"{where}: a mask is COCO run lengths {{'size': …, 'counts': …}}, not {shown(lengths)}")
    return decode_segmentation(lengths, *size, where)
