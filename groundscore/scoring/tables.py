"""Rows as columns, so that metrics are array operations.

Legend: N expressions, K pairs of masks, all of one split.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataloaders.sample import REJ, SEG
from groundscore.scoring.counts import ExpressionCounts, QuestionCounts

# A denial is one of these words or [REJ], in an answer without [SEG].
_DENIAL = re.compile(
    r"\b(?:no|not|none|nothing|neither|cannot|without|absent|missing|false|incorrect)\b|n['’]t\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Expressions:
    """Columns [N] of `ExpressionCounts`.

    image: number of the picture among those of the table, from 0; images: how many there are.
    ref: int64, -1 where there is none. exists, present: bool.
    intersection, union, predicted, target: int64 pixels.
    rejected: bool, the prediction counts as "nothing is there".
    denies: float64, 1 where the answer denies that the thing is there, 0 where not, NaN where no answer is known.
    """

    images: int
    image: np.ndarray
    ref: np.ndarray
    exists: np.ndarray
    present: np.ndarray
    intersection: np.ndarray
    union: np.ndarray
    predicted: np.ndarray
    target: np.ndarray
    rejected: np.ndarray
    denies: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[ExpressionCounts]) -> "Expressions":
        """The counts as they were drawn: a rejected expression keeps its mask."""
        items, image = np.unique([row.item for row in rows], return_inverse=True)
        present = np.array([row.present for row in rows], bool)
        return cls(
            images=len(items),
            image=image,
            ref=np.array([-1 if row.ref is None else row.ref for row in rows], np.int64),
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
        """The same with an empty mask for every expression that was rejected; a mask without pixels rejects, too."""
        predicted = np.where(self.present, self.predicted, 0)
        return replace(
            self,
            intersection=np.where(self.present, self.intersection, 0),
            union=np.where(self.present, self.union, self.target),
            predicted=predicted,
            rejected=predicted == 0,
        )


@dataclass(frozen=True)
class Pairs:
    """Predictions and targets of MUSE, assigned to each other: columns [K].

    image, images: as in `Expressions`. intersection, union: int64 pixels. iou: float64.
    larger: int64 [images], of each picture the number of its predictions or of its targets, whichever is more.
    """

    images: int
    image: np.ndarray
    intersection: np.ndarray
    union: np.ndarray
    iou: np.ndarray
    larger: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[QuestionCounts]) -> "Pairs":
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
