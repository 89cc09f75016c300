"""The scores of a split: its rows to columns, its columns to every metric with an interval.

Legend: I images, M metrics of a split.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from groundscore.errors import UserError
from groundscore.scoring import UNITS
from groundscore.scoring.bootstrap import interval, ratios, resample
from groundscore.scoring.counts import ExpressionCounts, Expressions, Pairs, QuestionCounts, Row
from groundscore.scoring.metrics import INTERVAL, counts_as_reference, kind_of, metrics_of, unit_of


def columns_of(spec: str, rows: Sequence[Row], *, gres_reference: bool = False) -> Expressions | Pairs:
    """The columns that the split's metrics are computed from, whatever the order of its rows."""
    rows = sorted(rows, key=lambda row: (row.item, row.expression))
    if kind_of(spec) == "muse":
        return Pairs.of(rows)
    drawn = Expressions.of(rows)
    return drawn if counts_as_reference(spec, gres_reference) else drawn.with_rejections()


def score_split(
    spec: str,
    rows: Sequence[ExpressionCounts] | Sequence[QuestionCounts],
    *,
    gres_reference: bool = False,
    unit: str = UNITS[0],
    conventions: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of a split, with a 95 % interval beside each.

    rows: of all its expressions, for MUSE of all its questions. gres_reference: count gRefCOCO and RefZOM as the
    reference does. unit: what has the weight of one, one of `UNITS`, for the kinds of `WEIGHTED`. conventions: also
    score by other conventions, under their names. bootstrap: resamples of the images, 0 for no intervals; seed: of
    these.

    Keys: the metrics of `metrics_of`, `<metric>_ci95` ([low, high] or None), and counts: "images", "expressions", and
    those of the kind of split. A metric is None where it is not applicable.
    Raises `UserError` where there are no rows.
    """
    if not rows:
        raise UserError(f"{spec}: there is nothing to score")
    columns = columns_of(spec, rows, gres_reference=gres_reference)
    unit = unit_of(spec, unit)
    metrics = metrics_of(spec, gres_reference=gres_reference, unit=unit, conventions=conventions)
    terms = [metric.weighted_terms(columns, unit) for metric in metrics]
    intervals: list[list[float] | None] = [None] * len(metrics)
    if bootstrap and columns.images > 1:
        sums = np.concatenate([each.by_image(columns.images) for each in terms], axis=1)  # [I, 3 M]
        totals = np.split(resample(sums, bootstrap, seed), len(metrics), axis=1)
        intervals = [interval(ratios(own, metric.zero)) for own, metric in zip(totals, metrics, strict=True)]
    scores: dict[str, Any] = {}
    for metric, own, bounds in zip(metrics, terms, intervals, strict=True):
        value = own.ratio(metric.zero)
        scores |= {metric.name: value, metric.name + INTERVAL: None if value is None else bounds}
    return scores | {"images": columns.images, "expressions": len(rows)} | _counts(rows, columns)


def _counts(rows: Sequence[Row], columns: Expressions | Pairs) -> dict[str, int]:
    if isinstance(columns, Pairs):
        return {
            "predictions": sum(len(row.predicted_areas) for row in rows),
            "targets": sum(len(row.target_areas) for row in rows),
            "pairs": len(columns.image),
        }
    return {
        "empty_targets": int((columns.target == 0).sum()),
        "absent": int((~columns.exists).sum()),
        "rejected": int(columns.rejected.sum()),
    } | _object_counts(rows)


def _object_counts(rows: Sequence[ExpressionCounts]) -> dict[str, int]:
    """How often the mask decoder's own score says that there is no object, and how often of empty targets; nothing
    where it has no such score."""
    judged = [row for row in rows if row.seen is not None]
    if not judged:
        return {}
    unseen = [row for row in judged if not row.seen]
    return {"no_object": len(unseen), "no_object_of_empty": sum(row.target_area == 0 for row in unseen)}
