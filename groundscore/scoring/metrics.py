"""The metrics, each a ratio of two sums. `docs/evaluation.md` has their definitions and sources.

Pixel sums and counts are int64, sums of ratios float64; there is no smoothing constant. A metric can be updated with
the rows of some pictures, merged with that of another process and computed; of the same terms `bootstrap.py` makes
intervals. What has seen nothing that it is about has the value None.

Legend: N expressions, K terms of a sum.
"""

from dataclasses import dataclass

import numpy as np

from groundscore.scoring.counts import ratios
from groundscore.scoring.tables import Expressions, Pairs

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Terms:
    """What a metric adds up: columns [K] with the picture each term belongs to, and its share of both sums."""

    image: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray


class Ratio:
    """A sum over another; subclasses say what is added up.

    zero: the value where terms were seen, but their denominators sum to nothing.
    """

    zero: float | None = None

    def __init__(self, numerator: int | float = 0, denominator: int = 0, count: int = 0):
        self.numerator, self.denominator, self.count = numerator, denominator, count

    def terms(self, table: Expressions | Pairs) -> Terms:
        raise NotImplementedError

    def update(self, table: Expressions | Pairs) -> None:
        """Count the rows of some pictures; all rows of a picture come in the same table."""
        terms = self.terms(table)
        self.numerator += terms.numerator.sum().item()
        self.denominator += terms.denominator.sum().item()
        self.count += len(terms.image)

    def merge(self, other: "Ratio") -> None:
        """Add what another process has counted."""
        assert type(self) is type(other)
        self.numerator += other.numerator
        self.denominator += other.denominator
        self.count += other.count

    def state(self) -> dict[str, int | float]:
        """Content for JSON; the constructor takes it back, beside what a metric is made with."""
        return {"numerator": self.numerator, "denominator": self.denominator, "count": self.count}

    def compute(self) -> float | None:
        if self.denominator:
            return self.numerator / self.denominator
        return self.zero if self.count else None


class MeanIoU(Ratio):
    """gIoU: mean over expressions of I / U, 1 where U = 0."""

    def terms(self, table: Expressions) -> Terms:
        return Terms(table.image, ratios(table.intersection, table.union), np.ones_like(table.image))


class CumulativeIoU(Ratio):
    """cIoU, and Segment of false-premise sets: sum of intersections over sum of unions."""

    zero = 1.0

    def terms(self, table: Expressions | Pairs) -> Terms:
        return Terms(table.image, table.intersection, table.union)


class PrecisionAt(Ratio):
    """Share of the targets with pixels whose IoU is strictly above `threshold`."""

    def __init__(self, threshold: float, **state: int):
        super().__init__(**state)
        self.threshold = threshold

    def terms(self, table: Expressions) -> Terms:
        hits = ratios(table.intersection, table.union) > self.threshold
        return _share(table, table.target > 0, hits)


class EmptyAccuracy(Ratio):
    """N-acc of GRES: share of empty targets that are rejected, TP / (TP + FN)."""

    def terms(self, table: Expressions) -> Terms:
        return _share(table, table.target == 0, table.rejected)


class TargetAccuracy(Ratio):
    """T-acc of GRES: share of targets with pixels that are not rejected, TN / (TN + FP)."""

    def terms(self, table: Expressions) -> Terms:
        return _share(table, table.target > 0, ~table.rejected)


class ReferenceMeanIoU(Ratio):
    """gIoU of GRES as the reference counts it: an empty target scores 1 where it is rejected, else 0; any other target
    is scored with the mask that was drawn, even if it was rejected."""

    def terms(self, table: Expressions) -> Terms:
        drawn = ratios(table.intersection, table.union)
        values = np.where(table.target == 0, table.rejected, drawn)
        return Terms(table.image, values.astype(np.float64), np.ones_like(table.image))


class ReferenceCumulativeIoU(Ratio):
    """cIoU of GRES as the reference counts it: over the masks as drawn; for an empty target only what was accepted
    joins the union, and that in gRefCOCO alone (`false_accepts`)."""

    zero = 1.0

    def __init__(self, false_accepts: bool, **state: int):
        super().__init__(**state)
        self.false_accepts = false_accepts

    def terms(self, table: Expressions) -> Terms:
        false_union = np.where(table.rejected, 0, table.union) if self.false_accepts else 0
        return Terms(table.image, table.intersection, np.where(table.target == 0, false_union, table.union))


class See(Ratio):
    """Share of expressions that are said to be there exactly if they are."""

    def terms(self, table: Expressions) -> Terms:
        return _share(table, np.ones_like(table.exists), table.present == table.exists)


class Say(Ratio):
    """A stand-in for the judged quality of refusals: share of false premises whose written answer denies them.

    Without written answers it has no value.
    """

    def terms(self, table: Expressions) -> Terms:
        return _share(table, ~table.exists & ~np.isnan(table.denies), table.denies == 1)


class RobustIoU(Ratio):
    """rIoU: mean over refs of I / U of its true sentences, where what is predicted for false sentences of the same ref
    joins U; 1 where U = 0."""

    def terms(self, table: Expressions) -> Terms:
        refs = _Refs(table)
        union = refs.sum(np.where(table.exists, table.union, table.predicted))
        values = ratios(refs.sum(np.where(table.exists, table.intersection, 0)), union)
        return Terms(refs.image, values, np.ones_like(refs.image))


class RejectionRate(Ratio):
    """mRR: mean over refs with false sentences of the share of these that are answered empty."""

    def terms(self, table: Expressions) -> Terms:
        refs = _Refs(table)
        false = refs.sum(~table.exists)
        has = false > 0
        rates = refs.sum(~table.exists & table.rejected)[has] / false[has]
        return Terms(refs.image[has], rates, np.ones_like(refs.image[has]))


class RefMeanIoU(Ratio):
    """mIoU of robust sets: mean over refs with true sentences of the mean IoU of these."""

    def terms(self, table: Expressions) -> Terms:
        refs = _Refs(table)
        true = refs.sum(table.exists)
        has = true > 0
        sums = refs.sum(np.where(table.exists, ratios(table.intersection, table.union), 0.0))
        return Terms(refs.image[has], sums[has] / true[has], np.ones_like(refs.image[has]))


class TrueCumulativeIoU(Ratio):
    """oIoU of robust sets: sum of intersections over sum of unions of the true sentences."""

    zero = 1.0

    def terms(self, table: Expressions) -> Terms:
        chosen = table.exists
        return Terms(table.image[chosen], table.intersection[chosen], table.union[chosen])


class PairMeanIoU(Ratio):
    """gIoU of MUSE: mean IoU over assigned pairs; a prediction or a target without partner is a pair with 0."""

    def terms(self, table: Pairs) -> Terms:
        return Terms(table.image, table.iou, np.ones_like(table.image))


class ReferencePairMeanIoU(Ratio):
    """gIoU of MUSE over the reference's number of pairs: per picture the larger of all its predictions and all its
    targets. Surplus in one question makes up for lack in another, so that it may exceed 1."""

    def terms(self, table: Pairs) -> Terms:
        sums = np.bincount(table.image, table.iou, table.images)
        return Terms(np.arange(table.images), sums, table.larger)


class _Refs:
    """The refs of a table: expressions grouped by picture and ref. image: int64, the picture of each ref."""

    def __init__(self, table: Expressions):
        keys = np.stack([table.image, table.ref], axis=1)
        groups, self._member = np.unique(keys, axis=0, return_inverse=True)
        self.image = groups[:, 0]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums by ref of a column [N], in its type; flags are counted."""
        values = values.astype(np.int64) if values.dtype == bool else values
        sums = np.zeros(len(self.image), values.dtype)
        np.add.at(sums, self._member.reshape(-1), values)
        return sums


def _share(table: Expressions, chosen: np.ndarray, hits: np.ndarray) -> Terms:
    """The share of `hits` among the `chosen` expressions; both bool [N]."""
    counted = hits[chosen].astype(np.int64)
    return Terms(table.image[chosen], counted, np.ones_like(counted))
