"""How far scores would have varied with other pictures: a bootstrap over pictures.

A picture is drawn with all its expressions, since these are not independent of each other. Every metric is a ratio of
sums, so a resample needs no more than the sums of its pictures.

Legend: I pictures, M columns of sums, B resamples.
"""

import numpy as np

from groundscore.scoring.metrics import Ratio, Terms

LEVEL = 0.95
_DRAWS_AT_ONCE = 2**22  # bounds the memory


def sums_by_image(terms: Terms, images: int) -> np.ndarray:
    """Numerator, denominator and number of terms of every picture: float64 [I, 3]; pixel sums stay below 2^53."""
    columns = (terms.numerator, terms.denominator, np.ones(len(terms.image)))
    return np.stack([np.bincount(terms.image, column, images) for column in columns], axis=1)


def resample(sums: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Totals of `samples` draws of as many pictures as there are, with replacement: [I, M] to [B, M]."""
    images = len(sums)
    rng = np.random.default_rng(seed)
    totals = np.empty((samples, sums.shape[1]))
    step = max(1, _DRAWS_AT_ONCE // images)
    for start in range(0, samples, step):
        some = min(step, samples - start)
        drawn = rng.integers(images, size=(some, images)) + images * np.arange(some)[:, None]
        times = np.bincount(drawn.reshape(-1), minlength=some * images).reshape(some, images)
        totals[start : start + some] = times.astype(np.float64) @ sums
    return totals


def values_of(totals: np.ndarray, zero: float | None) -> np.ndarray:
    """The metric in every resample, float64 [B], from totals [B, 3]; NaN where a resample has nothing to score.

    zero: as in `Ratio`.
    """
    numerator, denominator, count = totals.T
    values = np.full(len(totals), np.nan)
    np.divide(numerator, denominator, out=values, where=denominator > 0)
    if zero is not None:
        values[(denominator == 0) & (count > 0)] = zero
    return values


def interval(values: np.ndarray) -> list[float] | None:
    """The middle 95 % of resampled values; None where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def intervals(
    metrics: dict[str, Ratio], terms: dict[str, Terms], images: int, *, samples: int, seed: int
) -> dict[str, list[float] | None]:
    """The 95 % interval [low, high] of every metric; None where it has no value, or for fewer than two pictures."""
    if samples == 0 or images < 2:
        return dict.fromkeys(metrics)
    totals = resample(np.concatenate([sums_by_image(terms[name], images) for name in metrics], axis=1), samples, seed)
    return {
        name: interval(values_of(totals[:, 3 * place : 3 * place + 3], metric.zero))
        for place, (name, metric) in enumerate(metrics.items())
    }
