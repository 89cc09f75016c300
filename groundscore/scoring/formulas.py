"""The formulas of the metrics: from the counts of a split to what is summed; `metrics.py` says where each applies.

The docstring of a formula is its metric's definition in docs/evaluation.md. Pixel sums and counts are int64, sums of
ratios float64; there is no smoothing constant.

Legend: N expressions, K pairs of masks, of one split.
"""

from collections.abc import Callable

import numpy as np

from groundscore.scoring.bootstrap import Terms
from groundscore.scoring.counts import Expressions, Pairs, ious

# --- all but MUSE -----------------------------------------------------------------------------------------------------


def mean_iou(e: Expressions) -> Terms:
    """Mean over expressions of I / U; 1 where U = 0."""
    return Terms.mean(e.image, ious(e.intersection, e.union))


def cumulative_iou(e: Expressions | Pairs) -> Terms:
    """ΣI / ΣU; 1 where ΣU = 0."""
    return Terms(e.image, e.intersection, e.union)


def precision_at(threshold: float) -> Callable[[Expressions], Terms]:
    """Returns the formula of the share of the targets with pixels whose I / U is strictly above `threshold`."""
    return lambda e: Terms.share(e.image, e.target > 0, ious(e.intersection, e.union) > threshold)


def empty_accuracy(e: Expressions) -> Terms:
    """Share of empty targets whose prediction is empty: TP / (TP + FN)."""
    return Terms.share(e.image, e.target == 0, e.rejected)


def target_accuracy(e: Expressions) -> Terms:
    """Share of the other targets whose prediction is not: TN / (TN + FP)."""
    return Terms.share(e.image, e.target > 0, ~e.rejected)


def reference_mean_iou(e: Expressions) -> Terms:
    """With `--gres_reference`: an empty target scores 1 exactly if it was rejected by its token; any other is scored
    with the mask that was drawn, even if it was rejected."""
    return Terms.mean(e.image, np.where(e.target == 0, e.rejected, ious(e.intersection, e.union)).astype(np.float64))


def reference_cumulative_iou(e: Expressions) -> Terms:
    """With `--gres_reference`, gRefCOCO: ΣI / ΣU of the masks as drawn; for an empty target only the area that was
    accepted is added to ΣU."""
    return Terms(e.image, e.intersection, np.where((e.target == 0) & e.rejected, 0, e.union))


def rela_mean_iou(e: Expressions) -> Terms:
    """As the authors of gRefCOCO count (ReLA): an empty target scores 1 exactly if it was rejected by its token; any
    other scores 0 if it was, else I / U."""
    drawn = e.drawn
    hits = np.where(drawn.rejected, 0.0, ious(drawn.intersection, drawn.union))
    return Terms.mean(e.image, np.where(drawn.target == 0, drawn.rejected, hits).astype(np.float64))


def rela_cumulative_iou(e: Expressions) -> Terms:
    """As the authors of gRefCOCO count (ReLA): ΣI / ΣU, without the I of targets that were rejected but with the U of
    their masks as drawn; for an empty target only the area that was accepted is added to ΣU."""
    drawn = e.drawn
    intersection = np.where(drawn.rejected, 0, drawn.intersection)
    return Terms(e.image, intersection, np.where((drawn.target == 0) & drawn.rejected, 0, drawn.union))


def refzom_cumulative_iou(e: Expressions) -> Terms:
    """With `--gres_reference`, RefZOM: ΣI / ΣU of the masks as drawn over the targets with pixels."""
    return Terms(e.image, e.intersection, np.where(e.target == 0, 0, e.union))


def see(e: Expressions) -> Terms:
    """Accuracy of `present`: share of expressions that are accepted exactly if their target exists."""
    return Terms.mean(e.image, (e.present == e.exists).astype(np.int64))


def say(e: Expressions) -> Terms:
    """**A stand-in.** Share of the false premises whose written answer denies them: it has no `[SEG]`, and has `[REJ]`
    or one of *no, not, …n't, none, nothing, neither, cannot, without, absent, missing, false, incorrect*. Published Say
    scores use a language model as judge; this one measures whether the model denies, not how well it explains. In a
    joint answer, the text up to an expression's target counts for it. `null` if no answer was written
    (`--answer given`)."""
    return Terms.share(e.image, ~e.exists & ~np.isnan(e.denies), e.denies == 1)


class _Refs:
    """Expressions grouped by image and ref. image: int64, the image of each ref."""

    def __init__(self, e: Expressions):
        groups, self._member = np.unique(np.stack([e.image, e.ref], axis=1), axis=0, return_inverse=True)
        self.image = groups[:, 0]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Returns sums by ref of a column [N], in its type; flags are counted."""
        values = values.astype(np.int64) if values.dtype == bool else values
        sums = np.zeros(len(self.image), values.dtype)
        np.add.at(sums, self._member.reshape(-1), values)
        return sums

    def mean(self, chosen: np.ndarray, values: np.ndarray) -> Terms:
        """Returns the terms of the mean over refs of the mean of `values` over their `chosen` expressions."""
        count = self.sum(chosen)
        has = count > 0
        sums = self.sum(np.where(chosen, values, np.zeros_like(values)))
        return Terms.mean(self.image[has], sums[has] / count[has])


def robust_iou(e: Expressions) -> Terms:
    """Mean over refs of ΣI / ΣU, with I and U of its true sentences; the areas predicted for its false ones are added
    to ΣU; 1 where ΣU = 0."""
    refs = _Refs(e)
    union = refs.sum(np.where(e.exists, e.union, e.predicted))
    return Terms.mean(refs.image, ious(refs.sum(np.where(e.exists, e.intersection, 0)), union))


def rejection_rate(e: Expressions) -> Terms:
    """Mean over the refs that have false sentences of the share of these with an empty prediction."""
    return _Refs(e).mean(~e.exists, e.rejected)


def ref_mean_iou(e: Expressions) -> Terms:
    """Mean over the refs that have true sentences of the mean I / U of these."""
    return _Refs(e).mean(e.exists, ious(e.intersection, e.union))


def true_cumulative_iou(e: Expressions) -> Terms:
    """ΣI / ΣU over all true sentences."""
    return Terms(e.image[e.exists], e.intersection[e.exists], e.union[e.exists])


# --- MUSE -------------------------------------------------------------------------------------------------------------


def pair_mean_iou(pairs: Pairs) -> Terms:
    """ΣIoU over pairs / number of pairs; a pair that lacks one side has IoU 0."""
    return Terms.mean(pairs.image, pairs.iou)


def pair_precision_at(threshold: float) -> Callable[[Pairs], Terms]:
    """Returns the formula of the share of pairs whose IoU is strictly above `threshold`; one without a side is not."""
    return lambda pairs: Terms.mean(pairs.image, (pairs.iou > threshold).astype(np.int64))


def reference_pair_mean_iou(pairs: Pairs) -> Terms:
    """ΣIoU / the reference's number of pairs: per image the larger of all its predictions and all its targets. A
    surplus in one question makes up for a lack in another, so that it is never below gIoU."""
    return Terms(np.arange(pairs.images), np.bincount(pairs.image, pairs.iou, pairs.images), pairs.larger)
