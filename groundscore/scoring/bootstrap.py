"""How far a score would vary with other images: a bootstrap over images, and what follows from it for comparisons.

An image is drawn with all its expressions, since these depend on each other. Every metric is a ratio of two sums, so a
resample needs only the sums of each image.

Legend: I images, K terms of a sum, M columns of sums, B resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
POWER = 0.8
POINT = 0.01  # one point of a score in percent
_DRAWS_AT_ONCE = 2**22  # bounds the memory


@dataclass(frozen=True)
class Terms:
    """What a ratio of sums adds up: columns [K] with the image that each term belongs to, and its two parts."""

    image: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray

    @classmethod
    def mean(cls, image: np.ndarray, values: np.ndarray) -> "Terms":
        """Returns the terms of the mean of `values`."""
        return cls(image, values, np.ones(len(values), np.int64))

    @classmethod
    def share(cls, image: np.ndarray, chosen: np.ndarray, hits: np.ndarray) -> "Terms":
        """Returns the terms of the share of `hits` among the `chosen`; both bool [K]."""
        return cls.mean(image[chosen], hits[chosen].astype(np.int64))

    def by_image(self, images: int) -> np.ndarray:
        """Returns numerator, denominator and number of terms of each image, float64 [I, 3]; pixels stay below 2^53."""
        columns = (self.numerator, self.denominator, np.ones(len(self.image)))
        return np.stack([np.bincount(self.image, column, images) for column in columns], axis=1)

    def ratio(self, zero: float | None) -> float | None:
        """Returns the ratio of the sums; `zero` if the denominators of some terms sum to 0; None without terms."""
        denominator = self.denominator.sum().item()
        if denominator:
            return self.numerator.sum().item() / denominator
        return zero if len(self.image) else None


def resample(sums: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Totals [B, M] of `samples` draws, with replacement, of as many images as there are; sums: [I, M]."""
    images = len(sums)
    rng = np.random.default_rng(seed)
    totals = np.empty((samples, sums.shape[1]))
    step = max(1, _DRAWS_AT_ONCE // images)
    for start in range(0, samples, step):
        some = min(step, samples - start)
        drawn = rng.integers(images, size=(some, images))
        drawn += images * np.arange(some)[:, None]
        times = np.bincount(drawn.reshape(-1), minlength=some * images).reshape(some, images)
        totals[start : start + some] = times.astype(np.float64) @ sums
    return totals


def ratios(totals: np.ndarray, zero: float | None) -> np.ndarray:
    """Ratio in every resample, float64 [B], from totals [B, 3] of `Terms.by_image`; NaN where there are no terms."""
    numerator, denominator, count = totals.T
    values = np.full(len(totals), np.nan)
    np.divide(numerator, denominator, out=values, where=denominator > 0)
    if zero is not None:
        values[(denominator == 0) & (count > 0)] = zero
    return values


def interval(values: np.ndarray) -> list[float] | None:
    """The middle 95 % of resampled values, [low, high]; None where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def p_value(differences: np.ndarray) -> float:
    """Two-sided p of resampled differences [B]: how often they fall on the other side of no difference.

    A resample without a difference counts to both sides, as for the interval. At least 1 / (B + 1).
    """
    differences = differences.round(12)  # 1e-17 is no difference
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, (2 * tail + 1) / (len(differences) + 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Returns the p values of a family of tests, adjusted so that one below 0.05 anywhere is as rare as for one test.

    Step-down after Holm (1979): the k-th smallest of n is multiplied by n - k + 1, and never below the one before it.
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def influence(sums: np.ndarray) -> np.ndarray:
    """How far each image moves a ratio of sums, float64 [I] with mean 0: the ratio's first-order expansion.

    sums: [I, 2], numerator and denominator of each image. The standard error of the ratio is std(influence) / sqrt(I);
    for a plain mean with one term an image the influence is the value less the mean.
    """
    numerator, denominator = sums.T
    return (numerator - numerator.sum() / denominator.sum() * denominator) / denominator.mean()


def images_to_show(deviation: float, difference: float = POINT) -> int:
    """The number of images at which a paired comparison shows a true `difference` in four of five cases.

    deviation: standard deviation over images of the difference, in the unit of the score. With the interval of
    `LEVEL`, two-sided, and `POWER`: ((z_level + z_power) deviation / difference)^2; at least 2.
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    return max(2, math.ceil((z * deviation / difference) ** 2))
