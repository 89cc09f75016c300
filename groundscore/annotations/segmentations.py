"""COCO segmentations to masks: polygons, and run-length encodings (RLE) compressed or not.

A mask is the union of its parts, in {0, 1}: overlapping parts do not add up. Polygons are cropped to the image, however
far they reach outside, and parts that cover nothing are dropped beside others that do; both are noted as repairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groundscore.annotations.bad_entries import BadEntry, note_repair
from groundscore.errors import UserError, shown
from groundscore.rle import Rle, area, decode, empty, union

# pycocotools walks along a polygon in steps of 1/5 pixel and keeps every one, in 32-bit integers.
REACH = 4  # image sides outside the image, up to which a polygon is drawn as it is; what is farther is cut off before
LONGEST_OUTLINE = 2**21  # pixels, most of a polygon's outline
MOST_PARTS = 10_000  # of one mask; official sets have hundreds
MOST_POINTS = 1_000_000
_MOST_GROUPS = 7  # of five bits in a run length: more than any image has pixels

NO_PIXEL = "encloses no pixel of the image (a polygon needs three points, and some area inside)"


def decode_segmentation(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """Returns the mask, uint8 [height, width] in {0, 1}; see `encode_segmentation`."""
    return decode(encode_segmentation(segmentation, height, width, where))


def encode_segmentation(segmentation: Any, height: int, width: int, where: str) -> Rle:
    """Returns the mask as RLE; empty where no part covers a pixel.

    segmentation: a list of polygons [x0, y0, x1, y1, …], a list of RLE dictionaries, or one such dictionary.
    where: file and id, for errors and repairs.
    """
    if isinstance(segmentation, dict):
        segmentation = [segmentation]
    elif not isinstance(segmentation, list):
        raise UserError(f"{where}: a segmentation is a list or a dictionary, not {shown(segmentation)}")
    numbers = sum(len(part) for part in segmentation if isinstance(part, list))
    check_amount(len(segmentation), numbers // 2, where)
    parts = [part if isinstance(part, dict) else _corners(part, where) for part in segmentation]
    polygons = [part for part in parts if not isinstance(part, dict)]
    refuse_fractions(polygons, height, width, where)
    note_crop(polygons, height, width, where)
    drawn = [_encode(part, height, width, where) for part in parts]
    filled = [rle for rle in drawn if rle is not None and area(rle)]
    if not filled:
        return empty((height, width))
    dropped = len(parts) - len(filled)
    if dropped:
        note_repair(where, f"{dropped} of {len(parts)} parts dropped: fewer than three points, or not a pixel inside")
    return union(filled, (height, width))


def check_amount(parts: int, points: int, where: str) -> None:
    """Raises `BadEntry` for a mask of so many parts or points that drawing it would take minutes."""
    if parts > MOST_PARTS or points > MOST_POINTS:
        raise BadEntry.at(
            where, f"a mask of {parts} parts and {points} points; at most {MOST_PARTS} and {MOST_POINTS} are drawn"
        )


def refuse_fractions(polygons: Sequence[np.ndarray], height: int, width: int, where: str) -> None:
    """Raises `BadEntry` for polygons [N, 2] that all lie between 0 and 1, as fractions of the image do."""
    points = np.concatenate([np.zeros((0, 2)), *polygons])
    if len(points) < 3 or max(height, width) < 2 or points.min() < 0 or points.max() > 1:
        return
    if (points % 1).any():
        raise BadEntry.at(
            where,
            f"all points lie between 0 and 1, such as {points[:3].tolist()}. Are they fractions of the image? "
            f"Coordinates are pixels: multiply x by the width, {width}, and y by the height, {height}",
        )


def note_crop(polygons: Sequence[np.ndarray], height: int, width: int, where: str) -> None:
    """Note as a repair where polygons [N, 2] reach outside the image."""
    points = np.concatenate([np.zeros((0, 2)), *polygons])
    if len(points) and (points.min() < 0 or (points.max(0) > (width, height)).any()):
        low, high = points.min(0), points.max(0)
        note_repair(where, f"cropped to the image of {width} × {height}: from {low.tolist()} to {high.tolist()} (x, y)")


def cut_off_far(points: np.ndarray, height: int, width: int, where: str) -> np.ndarray:
    """Returns the corners [N, 2] of a polygon that is the same inside the image and has no corner far outside.

    What is cut off leaves edges along the border of a window that is larger than the image (Sutherland and Hodgman).
    """
    reach = REACH * max(height, width)
    for axis, size in ((0, width), (1, height)):
        for sign, limit in ((1, size + reach), (-1, reach)):
            points = _cut_off(points, axis, sign, limit)
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(1, initial=0)
    if steps.sum() > LONGEST_OUTLINE:
        raise BadEntry.at(where, f"a polygon's outline of {steps.sum():.0f} pixels in an image of {width} × {height}")
    return points


def _cut_off(points: np.ndarray, axis: int, sign: int, limit: float) -> np.ndarray:
    """Returns the part of a polygon where sign · coordinate <= limit."""
    inside = sign * points[:, axis] <= limit
    if inside.all():
        return points
    before, was_inside = np.roll(points, 1, axis=0), np.roll(inside, 1)
    # Halves, since a difference of the largest floating-point numbers has no finite value.
    start, end = before[:, axis] / 2, points[:, axis] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = ((sign * limit / 2 - start) / (end - start))[:, None]
        crossing = before * (1 - fraction) + points * fraction
    crossing[:, axis] = sign * limit
    kept = np.stack([inside != was_inside, inside], axis=1).reshape(-1)
    return np.stack([crossing, points], axis=1).reshape(-1, 2)[kept]


def _encode(part: dict | np.ndarray, height: int, width: int, where: str) -> dict | None:
    """Returns the compressed RLE of one part; None for a polygon without three points."""
    if isinstance(part, dict):
        return _run_lengths(part, height, width, where)
    if len(part) < 3:
        return None
    part = cut_off_far(part, height, width, where)
    if len(part) < 3:
        return None
    return coco_mask.frPyObjects([part.reshape(-1).tolist()], height, width)[0]


def _corners(values: Any, where: str) -> np.ndarray:
    """Returns a flat polygon as corners float64 [N, 2]."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise UserError(f"{where}: a polygon is a flat list x0, y0, x1, y1, … of numbers, not {shown(values)}")
    try:
        points = np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise UserError(f"{where}: a polygon contains a number that is too large: {shown(values)}") from error
    if not np.isfinite(points).all():
        raise UserError(f"{where}: a polygon's numbers are finite, unlike {shown(values)}")
    if len(points) % 2 and len(points) > 5:
        raise UserError(f"{where}: a polygon of {len(points)} numbers, which are not pairs of x and y")
    return points[: len(points) // 2 * 2].reshape(-1, 2)


def _run_lengths(rle: dict, height: int, width: int, where: str) -> Rle:
    """Returns a compressed RLE of the right size."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(type(side) is int for side in size):
        raise UserError(f"{where}: an RLE needs its 'size', [height, width], not {shown(size)}")
    if list(size) != [height, width]:
        raise BadEntry.at(where, f"an RLE for an image of {size} (height, width), the image has {[height, width]}")
    if isinstance(counts, str):
        counts = counts.encode("ascii", errors="replace")
    if isinstance(counts, list | bytes) and len(counts) > _MOST_GROUPS * (height * width + 2):
        raise BadEntry.at(where, f"an RLE of {len(counts)} counts for an image of {height * width} pixels")
    if isinstance(counts, list) and all(type(count) is int for count in counts):
        _check_lengths(counts, height * width, where)
        return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(counts, bytes):
        raise UserError(f"{where}: an RLE needs its 'counts', a list of whole numbers or text, not {shown(counts)}")
    # Its own reading of damaged text takes pycocotools beyond the end of the text: it is given text that was checked.
    _check_lengths(_uncompress(counts, where), height * width, where)
    return {"size": [height, width], "counts": counts}


def _check_lengths(lengths: Sequence[int] | np.ndarray, pixels: int, where: str) -> None:
    """Raises `BadEntry` for run lengths that are not those of an image of so many pixels."""
    if isinstance(lengths, np.ndarray):
        least, most, total = int(lengths.min(initial=0)), int(lengths.max(initial=0)), int(lengths.sum())
    else:  # whole numbers of any size
        least, most, total = min(lengths, default=0), max(lengths, default=0), sum(lengths)
    if least < 0:
        raise BadEntry.at(where, f"a run of {shown(least)} pixels; RLE counts must be 0 or more")
    if most > pixels:
        raise BadEntry.at(where, f"a run of {shown(most)} pixels, the image has {pixels}")
    if total != pixels:
        raise BadEntry.at(where, f"RLE counts add up to {total} pixels, the image has {pixels}")


def _uncompress(counts: bytes, where: str) -> np.ndarray:
    """Returns the run lengths in COCO's text form, int64 [N].

    A number is written in groups of five bits, the lowest first, with bit 6 set on all but the last; from the fourth on
    it is the difference to the length two positions before.
    """
    groups = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(groups):
        return groups
    if groups.min() < 0 or groups.max() > 63:
        raise BadEntry.at(where, "the RLE text has a character that no RLE has")
    ends = np.flatnonzero(groups < 32)  # the last group of each number
    starts = np.concatenate([[0], ends + 1])
    sizes = np.diff(starts)
    if sizes.max(initial=0) > _MOST_GROUPS or len(groups) - starts[-1] > _MOST_GROUPS:
        raise BadEntry.at(where, f"a run length of more than {_MOST_GROUPS} characters")
    if starts[-1] < len(groups):
        raise BadEntry.at(where, "the RLE text breaks off in the middle of a number")
    starts = starts[:-1]
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, sizes))
    values = np.add.reduceat((groups & 31) << shifts, starts)
    values[groups[ends] & 16 > 0] -= np.int64(1) << 5 * sizes[groups[ends] & 16 > 0]
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
