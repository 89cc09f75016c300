"""The metrics: what each is called, where it applies, which of `formulas.py` it is computed by.

A metric is a `Metric` in `METRICS`. Scores, report files, tables, `--compare`, and the tables of docs/evaluation.md
follow from there; docs/adding_a_metric.md adds one from a module of your own.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from groundscore.annotations.refer_files import REFER_SETS
from groundscore.errors import UserError
from groundscore.names import look_up
from groundscore.scoring import UNITS
from groundscore.scoring.bootstrap import Terms
from groundscore.scoring.counts import Expressions, Pairs
from groundscore.scoring.formulas import (
    cumulative_iou,
    empty_accuracy,
    mean_iou,
    pair_mean_iou,
    pair_precision_at,
    precision_at,
    ref_mean_iou,
    reference_cumulative_iou,
    reference_mean_iou,
    reference_pair_mean_iou,
    refzom_cumulative_iou,
    rejection_rate,
    rela_cumulative_iou,
    rela_mean_iou,
    robust_iou,
    say,
    see,
    target_accuracy,
    true_cumulative_iou,
)

# The kinds of split, and the headings of their tables.
KINDS = {
    "plain": "Segmentation",
    "gres": "Generalised referring segmentation",
    "false_premise": "False premises",
    "robust": "Robust referring segmentation",
    "muse": "Many targets per question",
}
ALL_BUT_MUSE = ("plain", "gres", "false_premise", "robust")
WEIGHTED = ("plain", "gres")  # those whose scores may be by ref or object instead of by expression
INTERVAL = "_ci95"  # "gIoU" has its interval beside it as "gIoU_ci95"
# What a report has of a split beside scores; no metric has such a name.
COUNTS = ("images", "expressions", "empty_targets", "absent", "rejected", "predictions", "targets", "pairs", "silent")
COUNTS += ("left_out", "repaired", "no_object", "no_object_of_empty")
RESERVED = (*COUNTS, "protocol", "layers", "seconds", "error", "left_out_entries", "repaired_entries")
_REFERENCE_SETS = ("grefcoco", "refzom")  # those that `--gres_reference` is about


def kind_of(spec: str) -> str:
    """The kind of a split, one of `KINDS`.

    spec: as in `groundscore.splits`. Own data ("custom|…") may have `[REJ]` and are scored as GRES sets are; a
    two-part name of a RefCOCO set stands for its version without the images of false-premise sets.
    """
    name, *rest = (part.strip() for part in spec.split("|"))
    if name.startswith("MultiReasonSeg"):
        return "muse"
    if name in (*_REFERENCE_SETS, "custom"):
        return "gres"
    if name.startswith("R-"):
        return "robust"
    if name.startswith("fp") or (name.startswith("ref") and len(rest) == 1):
        return "false_premise"
    return "plain"


def counts_as_reference(spec: str, gres_reference: bool) -> bool:
    """Whether `--gres_reference` changes how a split is counted."""
    return gres_reference and _set_of(spec) in _REFERENCE_SETS


def unit_of(spec: str, unit: str) -> str:
    """What has the weight of one in a split's scores: `unit`, one of `UNITS`, where the kind of split has a choice."""
    unit = look_up(unit, {one: one for one in UNITS}, "unit")
    return unit if kind_of(spec) in WEIGHTED else UNITS[0]


def _set_of(spec: str) -> str:
    return spec.split("|")[0].strip()


@dataclass(frozen=True)
class Metric:
    """A ratio of two sums over the expressions of a split, for MUSE over its pairs of masks.

    name: key in reports. kinds: of the splits that it applies to.
    terms: from the columns of a split's counts (`Expressions`, for MUSE `Pairs`) to what is summed.
    help: definition, a cell of the table in docs/evaluation.md; by default the docstring of `terms`.
    title: heading of its column, by default the name.
    columns: kinds whose tables show it, by default all of `kinds`.
    sets: only data sets of these names, by default all. reference: only where `--gres_reference` changes the counting
        (True), only where it does not (False), or in both cases.
    convention: the way of counting, where it is not the one that the report is in; tables have these apart, under the
        heading that the name begins with. unit: what has the weight of one in it, by default what has in the report.
    zero: the value where there are terms, but their denominators sum to 0; None for "not applicable".
    most: the largest value that it can have; the smallest is 0. higher_is_better: False marks its column with ↓.
    """

    name: str
    kinds: Collection[str]
    terms: Callable[[Any], Terms]
    _: KW_ONLY
    help: str = ""
    columns: Sequence[str] | None = None
    sets: Sequence[str] | None = None
    reference: bool | None = None
    zero: float | None = None
    most: float = 1.0
    higher_is_better: bool = True
    title: str = ""
    convention: str = ""
    unit: str | None = None

    @property
    def definition(self) -> str:
        """`help` or the docstring of the formula, as one line."""
        return self.help or " ".join((self.terms.__doc__ or "").split())

    @property
    def heading(self) -> str:
        """The heading of its column."""
        return (self.title or self.name) + ("" if self.higher_is_better else " ↓")

    def applies(self, spec: str, gres_reference: bool = False, unit: str = UNITS[0]) -> bool:
        """Whether the split has this metric in a report that is counted so."""
        return (
            kind_of(spec) in self.kinds
            and self.unit != unit
            and (self.sets is None or _set_of(spec) in self.sets)
            and self.reference in (None, counts_as_reference(spec, gres_reference))
        )

    def weighted_terms(self, counts: Expressions | Pairs, unit: str = UNITS[0]) -> Terms:
        """Returns its terms, each with the weight that its expression has where every unit has one."""
        unit = self.unit or unit
        if unit == UNITS[0]:
            return self.terms(counts)
        terms = self.terms(counts.one_image_each())
        weights = counts.weights(unit)[terms.image]
        return Terms(counts.image[terms.image], terms.numerator * weights, terms.denominator * weights)

    def compute(self, counts: Expressions | Pairs) -> float | None:
        """Returns the value for counts of a split; None where it is not applicable to any of them."""
        return self.terms(counts).ratio(self.zero)


def register(metric: Metric) -> None:
    """Adds a metric behind the others. Raises `UserError` where its name or kinds cannot be."""
    unknown = set(metric.kinds) - KINDS.keys()
    if unknown:
        raise UserError(f"metric {metric.name}: no kind of split is called {min(unknown)!r}; {', '.join(KINDS)} are")
    if metric.name in RESERVED or metric.name.endswith(INTERVAL):
        raise UserError(f"metric {metric.name}: reports use this name for something else; choose another")
    if any(metric.name == other.name and set(metric.kinds) & set(other.kinds) for other in METRICS):
        raise UserError(f"metric {metric.name}: this name is already taken; choose another")
    METRICS.append(metric)


def metrics_of(
    spec: str, *, gres_reference: bool = False, unit: str = UNITS[0], conventions: bool = False
) -> list[Metric]:
    """The metrics of a split, as reports order them; `conventions`: with those by other conventions."""
    unit = unit_of(spec, unit)
    chosen = [metric for metric in METRICS if metric.applies(spec, gres_reference, unit)]
    return [metric for metric in chosen if conventions or not metric.convention]


def table_columns(kind: str) -> dict[str, Metric]:
    """The metrics that the table of a kind of split shows, by name."""
    return {
        metric.name: metric
        for metric in METRICS
        if kind in metric.kinds and kind in (metric.kinds if metric.columns is None else metric.columns)
    }


def conventions_of(spec: str) -> dict[str, dict[str, Metric]]:
    """The metrics of a split by other conventions than the report's: by convention and the heading that they are under.

    A report has those that do not agree with its own way of counting.
    """
    found: dict[str, dict[str, Metric]] = {}
    for metric in METRICS:
        if metric.convention and any(metric.applies(spec, reference, "") for reference in (False, True)):
            found.setdefault(metric.convention, {})[metric.name.partition("_")[0]] = metric
    return found


_REFERRING_SETS = (*REFER_SETS, *(f"multi{name}" for name in REFER_SETS))
_AS_FLAGGED = "What `--gres_reference` makes the main score, in a report without it."
_AS_OURS = "What is the main score without `--gres_reference`, in a report with it."

# --- declarations, in the order of reports ----------------------------------------------------------------------------

METRICS: list[Metric] = [
    Metric("rIoU", ["robust"], robust_iou),
    Metric("mRR", ["robust"], rejection_rate),
    Metric("mIoU", ["robust"], ref_mean_iou),
    Metric("oIoU", ["robust"], true_cumulative_iou, zero=1.0),
    Metric("See", ["false_premise", "robust"], see),
    Metric(
        "Segment",
        ["false_premise", "robust"],
        cumulative_iou,
        help="cIoU over all expressions: the area predicted for a false premise is added to ΣU.",
        zero=1.0,
    ),
    Metric("Say", ["false_premise", "robust"], say, columns=["false_premise"]),
    Metric("gIoU", ALL_BUT_MUSE, mean_iou, reference=False, columns=["plain", "gres", "false_premise"]),
    Metric("gIoU", ["gres"], reference_mean_iou, reference=True),
    Metric("gIoU", ["muse"], pair_mean_iou),
    Metric("cIoU", KINDS, cumulative_iou, reference=False, columns=["plain", "gres", "muse"], zero=1.0),
    Metric("cIoU", ["gres"], reference_cumulative_iou, reference=True, sets=["grefcoco"], zero=1.0),
    Metric("cIoU", ["gres"], refzom_cumulative_iou, reference=True, sets=["refzom"], zero=1.0),
    Metric("gIoU_reference_pairs", ["muse"], reference_pair_mean_iou),
    Metric("N_acc", ["gres"], empty_accuracy),
    Metric("T_acc", ["gres"], target_accuracy),
    *(
        Metric(
            f"P@{threshold}",
            ALL_BUT_MUSE,
            precision_at(threshold),
            help=f"Share of the targets with pixels whose I / U is strictly above {threshold}.",
            columns=columns,
        )
        for threshold, columns in ((0.5, ["plain", "gres"]), (0.6, []), (0.7, ["plain"]), (0.8, []), (0.9, ["plain"]))
    ),
    *(
        Metric(
            f"P@{threshold}",
            ["muse"],
            pair_precision_at(threshold),
            help=f"Share of pairs whose IoU is strictly above {threshold}; a pair that lacks one side is not.",
            columns=["muse"] if threshold == 0.5 else [],
        )
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9)
    ),
    *(
        Metric(
            name,
            WEIGHTED,
            formula,
            help=f"{name[:4]} where every {unit} has the same weight, whatever the number of its expressions. Not in a "
            f"report with `--unit {unit}`, whose {name[:4]} it is.",
            columns=[],
            sets=_REFERRING_SETS,
            reference=False,
            zero=zero,
            convention=f"by {unit}",
            unit=unit,
        )
        for unit, *names in (
            ("expression", "gIoU_by_expression", "cIoU_by_expression"),
            ("ref", "gIoU_by_ref", "cIoU_by_ref"),
            ("object", "gIoU_by_object", "cIoU_by_object"),
        )
        for name, formula, zero in zip(names, (mean_iou, cumulative_iou), (None, 1.0), strict=True)
    ),
    *(
        Metric(
            f"{name}_{convention}",
            ["gres"],
            formula,
            help=text,
            columns=[],
            sets=sets,
            reference=reference,
            zero=1.0 if name == "cIoU" else None,
            convention=convention,
        )
        for name, convention, formula, sets, reference, text in (
            ("gIoU", "reference", lambda e: reference_mean_iou(e.drawn), _REFERENCE_SETS, False, _AS_FLAGGED),
            ("cIoU", "reference", lambda e: reference_cumulative_iou(e.drawn), ["grefcoco"], False, _AS_FLAGGED),
            ("cIoU", "reference", lambda e: refzom_cumulative_iou(e.drawn), ["refzom"], False, _AS_FLAGGED),
            ("gIoU", "ours", lambda e: mean_iou(e.with_rejections()), _REFERENCE_SETS, True, _AS_OURS),
            ("cIoU", "ours", lambda e: cumulative_iou(e.with_rejections()), _REFERENCE_SETS, True, _AS_OURS),
            ("gIoU", "ReLA", rela_mean_iou, ["grefcoco"], None, ""),
            ("cIoU", "ReLA", rela_cumulative_iou, ["grefcoco"], None, ""),
        )
    ),
]
