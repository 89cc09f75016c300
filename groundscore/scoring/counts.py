"""Pixel counts of predictions against the truth: the rows that every score is computed from.

Legend: E expressions of an image, P predictions and T targets of a question, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from groundscore.schema import ShapeError, flag, list_of, optional, record, text, whole

MOST_PIXELS = 2**34  # of an image: far more than any has, and few enough that sums stay exact


@dataclass(frozen=True)
class ExpressionCounts:
    """One expression and the mask that was predicted for it.

    item: index in the split's list of items. image: path of the picture, relative to the data root.
    expression: index in the item's list of expressions.
    ref: the group of sentences that it belongs to, None where the data set has no such groups.
    exists: the expression means something in the picture. present: the model says so.
    intersection, union, predicted_area, target_area: in pixels, without those to ignore, of the mask as it was drawn.
        Where `present` is False the prediction counts as empty, whatever was drawn (see `Expressions` in tables.py).
    answer: what the model wrote, None where it did not write or the text is unknown.
    """

    item: int
    image: str
    expression: int
    ref: int | None
    exists: bool
    present: bool
    intersection: int
    union: int
    predicted_area: int
    target_area: int
    answer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Content for JSON; `row_from_dict` reads it back."""
        return asdict(self)


@dataclass(frozen=True)
class QuestionCounts:
    """One question of MUSE: P predicted masks, T targets.

    item, image, expression, answer: as in `ExpressionCounts`; the expression is the question.
    intersections: pixels [P][T]. predicted_areas [P], target_areas [T]: pixels.
    """

    item: int
    image: str
    intersections: list[list[int]]
    predicted_areas: list[int]
    target_areas: list[int]
    expression: int = 0
    answer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Content for JSON; `row_from_dict` reads it back."""
        return asdict(self)

    def pairs(self) -> list["Pair"]:
        """Predictions assigned to targets so that the sum of IoU is largest; what is left over pairs with nothing.

        max(P, T) pairs: the assigned ones by prediction, then unmatched predictions, then unmatched targets.
        """
        predicted = np.array(self.predicted_areas, np.int64)
        targets = np.array(self.target_areas, np.int64)
        overlaps = np.array(self.intersections, np.int64).reshape(len(predicted), len(targets))
        unions = predicted[:, None] + targets - overlaps  # [P, T]
        rows, columns = linear_sum_assignment(ratios(overlaps, unions), maximize=True)
        matched = [Pair(int(overlaps[p, t]), int(unions[p, t]), True) for p, t in zip(rows, columns, strict=True)]
        extra = np.delete(predicted, rows).tolist() + np.delete(targets, columns).tolist()
        return matched + [Pair(0, area, False) for area in extra]


Row = ExpressionCounts | QuestionCounts


@dataclass(frozen=True)
class Pair:
    """A prediction and its target. matched: False where one of them is missing."""

    intersection: int
    union: int
    matched: bool

    @property
    def iou(self) -> float:
        """0 for a pair that lacks one side, an empty extra mask included."""
        return iou(self.intersection, self.union) if self.matched else 0.0


def _area(value: Any, where: str) -> None:
    whole(0)(value, where)
    if value > MOST_PIXELS:
        raise ShapeError(f"{where} is larger than any image")


_EXPRESSION = record(
    {
        "item": whole(0),
        "image": text,
        "expression": whole(0),
        "ref": optional(whole(0)),
        "exists": flag,
        "present": flag,
        "intersection": _area,
        "union": _area,
        "predicted_area": _area,
        "target_area": _area,
    },
    {"answer": optional(text)},
)
_QUESTION = record(
    {
        "item": whole(0),
        "image": text,
        "intersections": list_of(list_of(_area)),
        "predicted_areas": list_of(_area),
        "target_areas": list_of(_area),
    },
    {"expression": whole(0), "answer": optional(text)},
)


def check_row(value: Any, where: str) -> None:
    """The shape of a row in a file: its fields, and counts that can be those of two masks."""
    if isinstance(value, dict) and "intersections" in value:
        _QUESTION(value, where)
        overlaps, predicted, targets = value["intersections"], value["predicted_areas"], value["target_areas"]
        if len(overlaps) != len(predicted) or any(len(one) != len(targets) for one in overlaps):
            raise ShapeError(f"{where}.intersections should have {len(predicted)} x {len(targets)} numbers")
        pairs = [
            (overlap, area, target)
            for area, of_area in zip(predicted, overlaps, strict=True)
            for target, overlap in zip(targets, of_area, strict=True)
        ]
    else:
        _EXPRESSION(value, where)
        overlap, area, target = value["intersection"], value["predicted_area"], value["target_area"]
        if value["union"] != area + target - overlap:
            raise ShapeError(f"{where}.union should be {area + target - overlap} for these areas and intersection")
        pairs = [(overlap, area, target)]
    if any(overlap > min(area, target) for overlap, area, target in pairs):
        raise ShapeError(f"{where} has an intersection that is larger than the masks")


def row_from_dict(content: dict[str, Any]) -> Row:
    """The row that `to_dict` made; `content` has passed `check_row`."""
    return QuestionCounts(**content) if "intersections" in content else ExpressionCounts(**content)


def iou(intersection: int, union: int) -> float:
    """I / U; nothing predicted where nothing was to be found is right."""
    return 1.0 if union == 0 else intersection / union


def ratios(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """I / U elementwise, float64; 1 where U is 0."""
    return np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))


def scored_pairs(row: Row) -> Iterator[tuple[int, int]]:
    """(intersection, union) of everything in a row that gIoU counts, rejections applied: for running scores."""
    if isinstance(row, QuestionCounts):
        yield from ((pair.intersection, pair.union) for pair in row.pairs())
    elif row.present:
        yield row.intersection, row.union
    else:
        yield 0, row.target_area


def expression_counts(
    predictions: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Intersections, unions, predicted areas and target areas of E pairs of masks.

    predictions, truth: [E, H, W], pixels that are not 0 belong to the mask. ignore: [H, W] likewise, pixels that do not
    count. Raises ValueError where sizes differ.
    """
    if predictions.shape != truth.shape:
        raise ValueError(f"masks of different sizes: {predictions.shape} against {truth.shape}")
    predictions, truth = _counted(predictions, ignore), _counted(truth, ignore)
    overlap = _areas(predictions & truth)
    predicted, target = _areas(predictions), _areas(truth)
    return overlap.tolist(), (predicted + target - overlap).tolist(), predicted.tolist(), target.tolist()


def question_counts(
    predictions: np.ndarray, targets: np.ndarray, ignore: np.ndarray | None = None
) -> tuple[list[list[int]], list[int], list[int]]:
    """Intersections [P][T], predicted areas and target areas of a question of MUSE.

    predictions: [P, H, W], targets: [T, H, W], ignore: [H, W], as in `expression_counts`.
    """
    if predictions.shape[1:] != targets.shape[1:]:
        raise ValueError(f"masks of different sizes: {predictions.shape[1:]} against {targets.shape[1:]}")
    predictions, targets = _counted(predictions, ignore), _counted(targets, ignore)
    overlaps = [_areas(targets & prediction).tolist() for prediction in predictions]
    return overlaps, _areas(predictions).tolist(), _areas(targets).tolist()


def _counted(masks: np.ndarray, ignore: np.ndarray | None) -> np.ndarray:
    masks = masks != 0
    return masks if ignore is None else masks & (ignore == 0)


def _areas(masks: np.ndarray) -> np.ndarray:
    return np.count_nonzero(masks, axis=(1, 2)).astype(np.int64)
