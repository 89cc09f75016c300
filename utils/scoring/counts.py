"""Pixel counts of predictions against the truth: the rows that every score is computed from.

Legend: E expressions of an image, P predictions and T targets of a question, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment


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
        """Content for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "ExpressionCounts":
        """Raises TypeError where keys are missing or unknown."""
        return cls(**content)


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
        """Content for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "QuestionCounts":
        """Raises TypeError where keys are missing or unknown."""
        return cls(**content)

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


def row_from_dict(content: dict[str, Any]) -> Row:
    """The row that `to_dict` made; raises TypeError where `content` is none."""
    kind = QuestionCounts if "intersections" in content else ExpressionCounts
    return kind.from_dict(content)


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
