"""Scores of masks against the truth, from exact pixel counts.

Counts are integers and sums are float64, no smoothing constant anywhere. Every metric can be updated with the
intersections and unions of some expressions, merged with that of another process, and saved as a plain dictionary.
A metric that has seen nothing has the value None.

Legend: E expressions, H W pixels.
"""

from collections.abc import Iterable
from typing import Protocol, Self

import torch
from torch import Tensor

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def intersection_and_union(prediction: Tensor, truth: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Pixel counts of E pairs of masks, where they are: int64 [3, E] with intersections, unions and target areas.

    prediction, truth: bool [E, H, W]; ignore: bool [H, W], pixels that do not count.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks of different sizes: {tuple(prediction.shape)} against {tuple(truth.shape)}")
    if ignore is not None:
        counted = ~ignore
        prediction, truth = prediction & counted, truth & counted
    overlap = (prediction & truth).flatten(1).sum(1)
    target = truth.flatten(1).sum(1)
    return torch.stack([overlap, prediction.flatten(1).sum(1) + target - overlap, target])  # [3, E]


def iou(intersection: int, union: int) -> float:
    """I / U of one expression; nothing predicted where nothing was to be found is right."""
    return 1.0 if union == 0 else intersection / union


class Metric(Protocol):
    """What the metrics have in common."""

    def update(self, intersections: Iterable[int], unions: Iterable[int], targets: Iterable[int]) -> None: ...

    def merge(self, other: Self) -> Self:
        """Add what `other` has counted; returns self."""
        ...

    def state(self) -> dict[str, int | float]: ...

    def value(self) -> float | None: ...


class GIoU:
    """Mean over expressions of I / U; an expression with U = 0 counts 1."""

    def __init__(self, count: int = 0, total: float = 0.0):
        self.count, self.total = count, total

    def update(self, intersections: Iterable[int], unions: Iterable[int], targets: Iterable[int] = ()) -> None:
        for intersection, union in zip(intersections, unions, strict=True):
            self.count += 1
            self.total += iou(intersection, union)

    def merge(self, other: "GIoU") -> "GIoU":
        self.count += other.count
        self.total += other.total
        return self

    def state(self) -> dict[str, int | float]:
        return {"count": self.count, "total": self.total}

    def value(self) -> float | None:
        return self.total / self.count if self.count else None


class CIoU:
    """Sum of intersections over sum of unions; 1 when all unions are empty."""

    def __init__(self, count: int = 0, intersection: int = 0, union: int = 0):
        self.count, self.intersection, self.union = count, intersection, union

    def update(self, intersections: Iterable[int], unions: Iterable[int], targets: Iterable[int] = ()) -> None:
        for intersection, union in zip(intersections, unions, strict=True):
            self.count += 1
            self.intersection += intersection
            self.union += union

    def merge(self, other: "CIoU") -> "CIoU":
        self.count += other.count
        self.intersection += other.intersection
        self.union += other.union
        return self

    def state(self) -> dict[str, int | float]:
        return {"count": self.count, "intersection": self.intersection, "union": self.union}

    def value(self) -> float | None:
        return iou(self.intersection, self.union) if self.count else None


class PrecisionAt:
    """Share of the non-empty targets whose IoU is strictly above `threshold`."""

    def __init__(self, threshold: float, count: int = 0, hits: int = 0):
        self.threshold, self.count, self.hits = threshold, count, hits

    def update(self, intersections: Iterable[int], unions: Iterable[int], targets: Iterable[int]) -> None:
        for intersection, union, target in zip(intersections, unions, targets, strict=True):
            if target > 0:
                self.count += 1
                self.hits += intersection / union > self.threshold

    def merge(self, other: "PrecisionAt") -> "PrecisionAt":
        assert self.threshold == other.threshold
        self.count += other.count
        self.hits += other.hits
        return self

    def state(self) -> dict[str, int | float]:
        return {"threshold": self.threshold, "count": self.count, "hits": self.hits}

    def value(self) -> float | None:
        return self.hits / self.count if self.count else None


def mask_metrics() -> dict[str, Metric]:
    """The metrics of ReasonSeg and the RefCOCO family under the names that reports use."""
    metrics: dict[str, Metric] = {"gIoU": GIoU(), "cIoU": CIoU()}
    return metrics | {f"P@{threshold}": PrecisionAt(threshold) for threshold in PRECISION_THRESHOLDS}
