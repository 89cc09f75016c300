"""What the rows of a study have scored: results read back, means over seeds, differences with intervals, and tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from groundscore.errors import UserError
from groundscore.reading import read_json
from groundscore.scoring import percent
from groundscore.scoring.counts import QuestionCounts, Row, row_iou
from groundscore.scoring.layer_rows import LayerRow
from groundscore.scoring.tables import markdown_table
from groundscore.splits import QUERY_KINDS

LEVEL = 0.95  # of the intervals over seeds
COLUMNS = """`explicit` (named), `implicit` (reasoned about), `single` and `multi` (one target, several) are mean IoU of
the expressions with targets, `positive` the share of these that get a mask; `none` is the share of no-target
expressions (gRefCOCO, Ref-ZOM) without a mask, `correction` that of false premises (FP- and R-RefCOCO). All in
percent."""


@dataclass(frozen=True)
class StudyRow:
    """A row of a study. name: of its runs and files. system: for --model_key. flags: beyond the recipe, as one string.

    base: name of the base that it starts from, where a study has several.
    """

    name: str
    title: str
    system: str = "UGround"
    flags: str = ""
    base: str = ""

    @property
    def has_policy(self) -> bool:
        """Whether a layer policy is trained."""
        return self.system == "UGround" and "--mode 1" not in self.flags


Results = dict[str, dict[int, dict]]  # row -> seed -> what `run_row` wrote


def read_results(directory: Path, rows: Sequence[StudyRow]) -> Results:
    """All results of these rows, in their order, seeds rising.

    Raises `UserError` where they were made with different settings.
    """
    found: Results = {}
    first: tuple[Path, dict] | None = None
    for row in rows:
        for path in sorted(directory.glob(f"{row.name}.seed*.json")):
            result = read_json(path, missing="run the study first")
            first = first or (path, result["settings"])
            if result["settings"] != first[1]:
                differ = [name for name, value in first[1].items() if result["settings"].get(name) != value]
                raise UserError(
                    f"{path} was made with another --{', --'.join(differ)} than {first[0].name}; they do not belong in "
                    "one table: remove it, or name another --runs"
                )
            found.setdefault(row.name, {})[result["seed"]] = result
    return {name: dict(sorted(runs.items())) for name, runs in found.items()}


def query_scores(rows: Iterable[LayerRow]) -> dict[str, dict[str, float]]:
    """For each answer and kind of query the score of `COLUMNS`, over the expressions of all splits together."""
    found: dict[str, dict[str, list[float]]] = {}
    for layer_row in rows:
        row = layer_row.last if layer_row.greedy is None else layer_row.greedy
        of_answer = found.setdefault(layer_row.answer, {})
        for kind in layer_row.kinds:
            if kind == "positive":
                value = float(_has_mask(row))
            elif kind in ("none", "correction"):
                value = float(not _has_mask(row))
            elif "positive" in layer_row.kinds:
                value = row_iou(row)
            else:
                continue
            of_answer.setdefault(kind, []).append(value)
    return {answer: {kind: mean(values) for kind, values in kinds.items()} for answer, kinds in found.items()}


def _has_mask(row: Row) -> bool:
    if isinstance(row, QuestionCounts):
        return any(row.predicted_areas)
    return row.present and row.predicted_area > 0


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over n seeds; the deviation is None for one seed."""

    mean: float
    deviation: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.deviation is None else f"{self.mean:.3f} ± {self.deviation:.3f}"

    @property
    def percent(self) -> str:
        """The same of scores: in percent."""
        return percent(self.mean) + ("" if self.deviation is None else f" ± {percent(self.deviation)}")

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.deviation is None else self.deviation / self.n**0.5


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and standard deviation of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(mean(known), stdev(known) if len(known) > 1 else None, len(known))


def paired(results: Results, row: str, other: str, score: Callable[[dict], float | None]) -> Spread | None:
    """How much higher `row` scores than `other`, seed by seed; None where no seed has both."""
    seeds = sorted(set(results.get(row, {})) & set(results.get(other, {})))
    scores = [(score(results[row][seed]), score(results[other][seed])) for seed in seeds]
    return spread(a - b for a, b in scores if a is not None and b is not None)


def bounds(found: Spread) -> tuple[float, float]:
    """The interval of a mean over seeds by Student's t; `found` has more than one."""
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, found.n - 1)) * found.error
    return found.mean - half, found.mean + half


def interval(found: Spread) -> str:
    """A difference in IoU, in percent, with its interval over seeds, and whether 0 is outside."""
    if found.error is None:
        return f"{percent(found.mean, '+')} IoU (one seed: not decided)"
    low, high = bounds(found)
    verdict = "not decided" if low <= 0 <= high else "better" if found.mean > 0 else "worse"
    between = f"{percent(low, '+')} to {percent(high, '+')}"
    return f"{percent(found.mean, '+')} IoU ({between}, {found.n} seeds: {verdict})"


def queries_table(results: Results, rows: Sequence[StudyRow], answer: str) -> str:
    """A line per row, a column per kind of query; mean ± deviation over seeds."""
    table = [["row", "seeds", *QUERY_KINDS]]
    for row in rows:
        runs = list(results.get(row.name, {}).values())
        if runs:
            scores = [spread(run["queries"].get(answer, {}).get(kind) for run in runs) for kind in QUERY_KINDS]
            table.append([row.title, str(len(runs)), *(one.percent if one else "-" for one in scores)])
    return markdown_table(table)
