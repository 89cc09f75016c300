"""Pixel counts of predictions against the ground truth: the rows that every score follows from.

A row holds the counts of one expression (for MUSE of one question). `Expressions` and `Pairs` are the rows of a split
as columns, which metrics are computed from.

Legend: E expressions of an image, P predictions and T targets of a question, N expressions and K pairs of a split,
H W pixels.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from groundscore.rle import Rle, area, encode, intersection
from groundscore.schema import ShapeError, flag, list_of, optional, record, text, whole
from groundscore.splits import LeftOut
from groundscore.targets import REJ, SEG

MOST_PIXELS = 2**34  # of an image: far more than any has, and few enough that sums stay exact

# An answer denies the target if it has one of these words or [REJ], and no [SEG].
_DENIAL = re.compile(
    r"\b(?:no|not|none|nothing|neither|cannot|without|absent|missing|false|incorrect)\b|n['’]t\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Pair:
    """A prediction and its target. matched: False where one of the two is missing."""

    intersection: int
    union: int
    matched: bool = True

    @property
    def iou(self) -> float:
        """I / U; 0 for a pair that lacks one side, even if the other is an empty mask."""
        return iou(self.intersection, self.union) if self.matched else 0.0


@dataclass(frozen=True, slots=True)
class ExpressionCounts:
    """The counts of one expression and the mask predicted for it.

    item: index in the split. image: path of the image, relative to the data root.
    expression: index among the item's expressions.
    ref: the group of sentences that it belongs to, None where the data set has no such groups.
    exists: the target is in the image. present: the model says so.
    intersection, union, predicted_area, target_area: pixels, without ignored ones, of the mask as it was drawn. Where
        `present` is False the prediction counts as empty, whatever was drawn (`Expressions.with_rejections`).
    answer: what the model wrote, None where it did not write or the text is unknown.
    object: the first expression of the item that is about the same targets; None where the data do not tell these.
    seen: whether the mask decoder's own score says that there is an object, whatever was written; None where it
        has no such score or nothing was decoded.
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
    object: int | None = None
    seen: bool | None = None

    def pairs(self) -> list[Pair]:
        """The one pair of masks, the prediction empty where the expression was rejected."""
        return [Pair(self.intersection, self.union) if self.present else Pair(0, self.target_area)]

    def to_dict(self) -> dict[str, Any]:
        """Returns content for JSON; `row_from_dict` reads it back."""
        values = asdict(self)
        return values if self.seen is not None else {k: v for k, v in values.items() if k != "seen"}


@dataclass(frozen=True, slots=True)
class QuestionCounts:
    """The counts of one question of MUSE: P predicted masks, T targets.

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

    def pairs(self) -> list[Pair]:
        """max(P, T) pairs: predictions assigned to targets so that the sum of IoU is largest.

        First the assigned ones by prediction, then unmatched predictions, then unmatched targets.
        """
        predicted = np.array(self.predicted_areas, np.int64)
        targets = np.array(self.target_areas, np.int64)
        overlaps = np.array(self.intersections, np.int64).reshape(len(predicted), len(targets))
        unions = predicted[:, None] + targets - overlaps  # [P, T]
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(ious(overlaps, unions), maximize=True)
        matched = [Pair(int(overlaps[p, t]), int(unions[p, t])) for p, t in zip(rows, columns, strict=True)]
        extra = np.delete(predicted, rows).tolist() + np.delete(targets, columns).tolist()
        return matched + [Pair(0, area, matched=False) for area in extra]

    def to_dict(self) -> dict[str, Any]:
        """Returns content for JSON; `row_from_dict` reads it back."""
        return asdict(self)


Row = ExpressionCounts | QuestionCounts


@dataclass(kw_only=True)
class SplitCounts:
    """All that a split was counted for.

    rows: of all expressions, in the order of the split. masks: of each row its predicted masks as RLE, or nothing for
    all where they were not kept. left_out: entries that cannot be used and have no row. repaired: what was repaired in
    the others, as `Repair.to_dict` with "item" and "image".
    """

    rows: list[Row] = field(default_factory=list)
    masks: list[Sequence[Any]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    repaired: list[dict[str, Any]] = field(default_factory=list)


# --- masks to counts --------------------------------------------------------------------------------------------------


def iou(intersection: int, union: int) -> float:
    """I / U; 1 where both masks are empty."""
    return 1.0 if union == 0 else intersection / union


def ious(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """I / U elementwise, float64; 1 where U is 0."""
    return np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))


def mask_iou(prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """IoU of two masks [H, W], over the pixels that are not ignored."""
    overlap, union, *_ = expression_counts(encode(prediction), encode(truth), counted_pixels(ignore))
    return iou(overlap, union)


def row_iou(row: Row) -> float:
    """IoU of an expression; for a question of MUSE the mean over its pairs, 1 where it has none."""
    pairs = row.pairs()
    return sum(pair.iou for pair in pairs) / len(pairs) if pairs else 1.0


def counted_pixels(ignore: np.ndarray | None) -> Rle | None:
    """The pixels that count, as RLE; None for all. ignore: [H, W], pixels that are not 0 do not count."""
    return None if ignore is None else encode(ignore == 0)


def expression_counts(prediction: Rle, target: Rle, counted: Rle | None = None) -> tuple[int, int, int, int]:
    """Intersection, union, predicted area and target area of two masks, over the pixels `counted`, by default all.

    Raises ValueError where sizes differ.
    """
    prediction, target = _counted([prediction, target], counted)
    overlap, predicted, wanted = area(intersection(prediction, target)), area(prediction), area(target)
    return overlap, predicted + wanted - overlap, predicted, wanted


def question_counts(
    predictions: Sequence[Rle], targets: Sequence[Rle], counted: Rle | None = None
) -> tuple[list[list[int]], list[int], list[int]]:
    """Intersections [P][T], predicted areas and target areas of a question of MUSE; `counted` as above."""
    masks = _counted([*predictions, *targets], counted)
    predictions, targets = masks[: len(predictions)], masks[len(predictions) :]
    overlaps = [[area(intersection(prediction, target)) for target in targets] for prediction in predictions]
    return overlaps, [area(mask) for mask in predictions], [area(mask) for mask in targets]


def _counted(masks: list[Rle], counted: Rle | None) -> list[Rle]:
    """The masks without ignored pixels; pycocotools would take masks of different sizes for empty ones."""
    sizes = {tuple(mask["size"]) for mask in (*masks, *(() if counted is None else (counted,)))}
    if len(sizes) > 1:
        raise ValueError(f"masks of different sizes: {' against '.join(map(str, sorted(sizes)))}")
    return masks if counted is None else [intersection(mask, counted) for mask in masks]


# --- rows as columns --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expressions:
    """Columns [N] of `ExpressionCounts`.

    image: index of the image among those of the rows; images: how many there are.
    ref, object: int64, -1 where there is none. exists, present: bool.
    intersection, union, predicted, target: int64 pixels.
    rejected: bool, the prediction counts as "there is no target".
    denies: float64, 1 where the answer denies that there is a target, 0 where not, NaN where no answer is known.
    """

    images: int
    image: np.ndarray
    ref: np.ndarray
    object: np.ndarray
    exists: np.ndarray
    present: np.ndarray
    intersection: np.ndarray
    union: np.ndarray
    predicted: np.ndarray
    target: np.ndarray
    rejected: np.ndarray
    denies: np.ndarray
    _drawn: "Expressions | None" = None

    @property
    def drawn(self) -> "Expressions":
        """The counts of the masks as they were drawn."""
        return self._drawn or self

    @classmethod
    def of(cls, rows: Sequence[ExpressionCounts]) -> "Expressions":
        """Returns the counts as they were drawn: a rejected expression keeps its mask."""
        items, image = np.unique([row.item for row in rows], return_inverse=True)
        present = np.array([row.present for row in rows], bool)
        return cls(
            images=len(items),
            image=image,
            ref=np.array([-1 if row.ref is None else row.ref for row in rows], np.int64),
            object=np.array([-1 if row.object is None else row.object for row in rows], np.int64),
            exists=np.array([row.exists for row in rows], bool),
            present=present,
            intersection=np.array([row.intersection for row in rows], np.int64),
            union=np.array([row.union for row in rows], np.int64),
            predicted=np.array([row.predicted_area for row in rows], np.int64),
            target=np.array([row.target_area for row in rows], np.int64),
            rejected=~present,
            denies=np.array([_denies(row.answer) for row in rows], np.float64),
        )

    def with_rejections(self) -> "Expressions":
        """Returns a copy with an empty mask for every rejected expression; a mask without pixels rejects, too."""
        predicted = np.where(self.present, self.predicted, 0)
        return replace(
            self,
            intersection=np.where(self.present, self.intersection, 0),
            union=np.where(self.present, self.union, self.target),
            predicted=predicted,
            rejected=predicted == 0,
            _drawn=self,
        )

    def one_image_each(self) -> "Expressions":
        """Returns a copy that takes every expression for an image, so that terms tell the expression they are of."""
        count = len(self.image)
        drawn = None if self._drawn is None else self._drawn.one_image_each()
        return replace(self, images=count, image=np.arange(count), _drawn=drawn)

    def weights(self, unit: str) -> np.ndarray:
        """Returns 1 / (number of expressions of the same unit) of each expression, float64 [N].

        unit: "expression", "ref" or "object", one of `UNITS`; an expression without a ref or object is its own.
        """
        if unit == "expression":
            return np.ones(len(self.image))
        group = {"ref": self.ref, "object": self.object}[unit]
        alone = group < 0
        own = np.where(alone, -1 - np.arange(len(group)), group)
        _, member, size = np.unique(np.stack([self.image, own], 1), axis=0, return_inverse=True, return_counts=True)
        return 1 / size[member.reshape(-1)]


@dataclass(frozen=True)
class Pairs:
    """Columns [K] of the predictions and targets of MUSE, assigned to each other.

    image, images: as in `Expressions`. intersection, union: int64 pixels. iou: float64.
    larger: int64 [images], for each image the number of its predictions or of its targets, whichever is larger.
    """

    images: int
    image: np.ndarray
    intersection: np.ndarray
    union: np.ndarray
    iou: np.ndarray
    larger: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[QuestionCounts]) -> "Pairs":
        """Returns the pairs of all questions, in their order."""
        items, image = np.unique([row.item for row in rows], return_inverse=True)
        paired = [row.pairs() for row in rows]
        pairs = [pair for one in paired for pair in one]
        predictions = np.bincount(image, [len(row.predicted_areas) for row in rows], len(items))
        targets = np.bincount(image, [len(row.target_areas) for row in rows], len(items))
        return cls(
            images=len(items),
            image=np.repeat(image, [len(one) for one in paired]),
            intersection=np.array([pair.intersection for pair in pairs], np.int64),
            union=np.array([pair.union for pair in pairs], np.int64),
            iou=np.array([pair.iou for pair in pairs], np.float64),
            larger=np.maximum(predictions, targets).astype(np.int64),
        )


def _denies(answer: str | None) -> float:
    if answer is None:
        return np.nan
    return float(SEG not in answer and (REJ in answer or _DENIAL.search(answer) is not None))


# --- rows in files ----------------------------------------------------------------------------------------------------


def _area(value: Any, where: str) -> None:
    whole(0)(value, where)
    if value > MOST_PIXELS:
        raise ShapeError(f"{where} is larger than any image")


_BOTH = {"item": whole(0), "image": text}
_EXPRESSION = record(
    _BOTH
    | {"expression": whole(0), "ref": optional(whole(0)), "exists": flag, "present": flag}
    | dict.fromkeys(("intersection", "union", "predicted_area", "target_area"), _area),
    {"answer": optional(text), "object": optional(whole(0)), "seen": optional(flag)},
)
_QUESTION = record(
    _BOTH
    | {"intersections": list_of(list_of(_area)), "predicted_areas": list_of(_area), "target_areas": list_of(_area)},
    {"expression": whole(0), "answer": optional(text)},
)


def check_row(value: Any, where: str) -> None:
    """Checks the shape of a row in a file: its fields, and that its counts can be those of two masks."""
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
    """Returns the row that `to_dict` made; `content` has passed `check_row`."""
    return QuestionCounts(**content) if "intersections" in content else ExpressionCounts(**content)
