"""The scores of a split from its rows: which metrics a benchmark has, their values and intervals."""

from collections.abc import Sequence
from typing import Any

from groundscore.errors import UserError
from groundscore.scoring import metrics as m
from groundscore.scoring.bootstrap import intervals
from groundscore.scoring.counts import ExpressionCounts, QuestionCounts
from groundscore.scoring.tables import Expressions, Pairs

GRES_SETS = ("grefcoco", "refzom")
INTERVAL = "_ci95"  # "gIoU" has its interval beside it as "gIoU_ci95"


def kind_of(spec: str) -> str:
    """How a split is scored: "muse", "gres", "robust", "false_premise" or "plain".

    spec: as in `groundscore.splits`. Own data ("custom|…") may have `[REJ]` and are scored as GRES sets are; a
    two-part name of a RefCOCO set stands for its version without the pictures of false-premise sets.
    """
    name, *rest = (part.strip() for part in spec.split("|"))
    if name.startswith("MultiReasonSeg"):
        return "muse"
    if name in GRES_SETS or name == "custom":
        return "gres"
    if name.startswith("R-"):
        return "robust"
    if name.startswith("fp") or (name.startswith("ref") and len(rest) == 1):
        return "false_premise"
    return "plain"


def metrics_of(spec: str, *, gres_reference: bool = False) -> dict[str, m.Ratio]:
    """The metrics of a split, new, under the names that reports use; the headline numbers come first."""
    kind = kind_of(spec)
    if kind == "muse":
        return {
            "gIoU": m.PairMeanIoU(),
            "cIoU": m.CumulativeIoU(),
            "gIoU_reference_pairs": m.ReferencePairMeanIoU(),
        }
    chosen: dict[str, m.Ratio] = {}
    if kind == "robust":
        chosen |= {
            "rIoU": m.RobustIoU(),
            "mRR": m.RejectionRate(),
            "mIoU": m.RefMeanIoU(),
            "oIoU": m.TrueCumulativeIoU(),
        }
    if kind in ("robust", "false_premise"):
        chosen |= {"See": m.See(), "Segment": m.CumulativeIoU(), "Say": m.Say()}
    if counts_as_reference(spec, gres_reference):
        false_accepts = spec.split("|")[0].strip() == "grefcoco"
        chosen |= {"gIoU": m.ReferenceMeanIoU(), "cIoU": m.ReferenceCumulativeIoU(false_accepts)}
    else:
        chosen |= {"gIoU": m.MeanIoU(), "cIoU": m.CumulativeIoU()}
    if kind == "gres":
        chosen |= {"N_acc": m.EmptyAccuracy(), "T_acc": m.TargetAccuracy()}
    return chosen | {f"P@{threshold}": m.PrecisionAt(threshold) for threshold in m.PRECISION_THRESHOLDS}


def counts_as_reference(spec: str, gres_reference: bool) -> bool:
    """Whether the flag `gres_reference` changes how a split is counted."""
    return gres_reference and spec.split("|")[0].strip() in GRES_SETS


def table_of(
    spec: str, rows: Sequence[ExpressionCounts] | Sequence[QuestionCounts], *, gres_reference: bool = False
) -> Expressions | Pairs:
    """The columns that the split's metrics are computed from."""
    if kind_of(spec) == "muse":
        return Pairs.of(rows)
    drawn = Expressions.of(rows)
    return drawn if counts_as_reference(spec, gres_reference) else drawn.with_rejections()


def score_split(
    spec: str,
    rows: Sequence[ExpressionCounts] | Sequence[QuestionCounts],
    *,
    gres_reference: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of a split, with a 95 % interval beside each.

    rows: of all its expressions, for MUSE of all its questions. gres_reference: count gRefCOCO and RefZOM as the
    reference does. bootstrap: resamples of the pictures, 0 for no intervals; seed: of these.

    Keys: the metrics of `metrics_of`, `<metric>_ci95` ([low, high] or None), and counts: "images", "expressions", and
    what the kind of split has besides. A metric is None where it is not applicable.
    Raises `UserError` where there are no rows.
    """
    if not rows:
        raise UserError(f"{spec}: there is nothing to score")
    rows = sorted(rows, key=lambda row: (row.item, row.expression))
    table = table_of(spec, rows, gres_reference=gres_reference)
    metrics = metrics_of(spec, gres_reference=gres_reference)
    for metric in metrics.values():
        metric.update(table)
    terms = {name: metric.terms(table) for name, metric in metrics.items()}
    found = intervals(metrics, terms, table.images, samples=bootstrap, seed=seed)
    scores: dict[str, Any] = {}
    for name, metric in metrics.items():
        scores[name] = metric.compute()
        scores[name + INTERVAL] = found[name] if scores[name] is not None else None
    return scores | _counts(rows, table)


def _counts(rows: Sequence, table: Expressions | Pairs) -> dict[str, int]:
    if isinstance(table, Pairs):
        return {
            "images": table.images,
            "expressions": len(rows),
            "predictions": sum(len(row.predicted_areas) for row in rows),
            "targets": sum(len(row.target_areas) for row in rows),
            "pairs": len(table.image),
        }
    return {
        "images": table.images,
        "expressions": len(rows),
        "empty_targets": int((table.target == 0).sum()),
        "absent": int((~table.exists).sum()),
        "rejected": int(table.rejected.sum()),
    }
