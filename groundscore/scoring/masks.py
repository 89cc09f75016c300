"""Predicted masks in the forms that models and files have them in, as RLE.

| Form | |
|---|---|
| array [H, W], bool or whole numbers | pixels that are not 0 |
| array [H, W] of floating-point numbers | logits or probabilities: pixels above a threshold |
| RLE, `{"size": …, "counts": …}` | compressed or not |
| polygons, `[[x0, y0, x1, y1, …], …]` | their union, in pixels |
| path of a PNG | pixels that are not 0; soft edges count from half of the highest value on |
| several of these, in a list or array [n, H, W] | their union |
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.label_maps import read_mask
from groundscore.annotations.segmentations import encode_segmentation
from groundscore.errors import UserError, shown
from groundscore.rle import Rle, Size, as_json, encode, union


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W], pixels that are not 0, as RLE `{"size": [H, W], "counts": text}` that JSON can hold."""
    return as_json(encode(mask))


def to_rle(mask: Any, size: Size, where: str, threshold: float | None = None) -> Rle:
    """Returns a mask in any form of this module's table as RLE; None is a mask without a pixel.

    size: (H, W) that it must have. where: what is named in errors. threshold: for floating-point numbers.
    Raises `UserError` for any other form, another size, and floating-point numbers without a threshold.
    """
    return union([_one(part, size, where, threshold) for part in parts_of(mask)], size)


def parts_of(mask: Any) -> list[Any]:
    """Returns the masks of which a mask is the union: a mask of one part as it is, those of a list or stack."""
    if mask is None:
        return []
    mask = _as_array(mask)
    if isinstance(mask, np.ndarray):
        return list(mask) if mask.ndim == 3 else [mask]
    if isinstance(mask, list | tuple) and not any(_is_polygon(part) for part in mask):
        return [part for several in mask for part in parts_of(several)]
    return [mask]


def _one(mask: Any, size: Size, where: str, threshold: float | None) -> Rle:
    if isinstance(mask, np.ndarray):
        return _of_array(mask, size, where, threshold)
    if isinstance(mask, str | PathLike):
        mask = read_mask(Path(mask))
        return _of_array(mask, size, where, None)
    if isinstance(mask, dict):
        return encode_segmentation(mask, *size, where)
    if isinstance(mask, list | tuple):
        polygons = [part.tolist() if isinstance(part, np.ndarray) else list(part) for part in mask]
        return encode_segmentation(polygons, *size, where)
    raise UserError(
        f"{where}: a mask is a bool array, a COCO RLE {{'size': …, 'counts': …}}, a list of polygons or the path of a "
        f"PNG, not {shown(mask)}"
    )


def _of_array(mask: np.ndarray, size: Size, where: str, threshold: float | None) -> Rle:
    if mask.shape != tuple(size):
        raise UserError(
            f"{where}: the mask is {' x '.join(map(str, mask.shape))} (height x width), its image {size[0]} x "
            f"{size[1]}; resize it to the image"
        )
    if mask.dtype.kind in "bui":
        return encode(mask)
    if mask.dtype.kind != "f":
        raise UserError(f"{where}: a mask is an array of bool or numbers, not of {mask.dtype}")
    if np.isnan(mask).any():
        raise UserError(f"{where}: the mask has values that are not numbers (NaN)")
    if threshold is None:
        if not ((mask == 0) | (mask == 1)).all():
            raise UserError(
                f"{where}: the mask has fractions, from {mask.min():g} to {mask.max():g}; pass threshold=0.0 for "
                "logits or threshold=0.5 for probabilities"
            )
        threshold = 0.5
    return encode(mask > threshold)


def _as_array(mask: Any) -> Any:
    """Returns a tensor of any library as an array; anything else as it is."""
    if hasattr(mask, "detach"):  # torch, which is not imported here
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.is_floating_point() else mask).numpy()
    elif hasattr(mask, "__array__") and not isinstance(mask, np.ndarray):
        mask = np.asarray(mask)
    return mask


def _is_polygon(part: Any) -> bool:
    """Whether this is x0, y0, x1, y1, …"""
    if isinstance(part, np.ndarray):
        return part.ndim == 1
    return isinstance(part, Sequence) and not isinstance(part, str) and all(type(one) in (int, float) for one in part)
