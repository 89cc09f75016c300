"""Is one report better than another? A paired bootstrap over the images that all of them have scored.

All are resampled with the same draws, so that what makes an image hard for any of them cancels out. With more than two
reports every pair is compared, and p is corrected for the number of comparisons.

Legend: S systems (one report each), I images, B resamples, M metrics.
"""

import itertools
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.errors import UserError, printable
from groundscore.scoring import UNITS, percent
from groundscore.scoring.bootstrap import holm, images_to_show, influence, interval, p_value, ratios, resample
from groundscore.scoring.counts import Row
from groundscore.scoring.metrics import metrics_of, unit_of
from groundscore.scoring.report import read_report, read_rows
from groundscore.scoring.split_scores import columns_of
from groundscore.scoring.tables import left_out_note, markdown_table, selection_note

SAMPLES = 10_000
MOST = 26  # reports, named by letters


@dataclass(frozen=True)
class Difference:
    """One metric of one split in two of the reports.

    heading: of its column in tables. first, second: the letters of the reports. a, b: the values of the metric there.
    difference: b - a, low and high its 95 % interval. deviation: standard deviation over images of the paired
    difference, as `bootstrap.influence` has it; None where an image has none (no target of its kind) or there is one.
    p: two-sided, how often resamples fall on the other side of no difference; at least 1 / (B + 1).
    p_holm: adjusted for all comparisons of this metric, pairs of reports and splits together.
    """

    split: str
    answer: str
    metric: str
    heading: str
    a: float
    b: float
    low: float
    high: float
    p: float
    images: int
    first: str = "A"
    second: str = "B"
    deviation: float | None = None
    p_holm: float = 1.0

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a

    @property
    def effect(self) -> float | None:
        """The difference in standard deviations over images (Cohen's d of paired values); None without deviation."""
        return self.difference / self.deviation if self.deviation else None

    @property
    def images_for_a_point(self) -> int | None:
        """Images at which a true difference of one point is shown in four of five comparisons, see `images_to_show`."""
        return images_to_show(self.deviation) if self.deviation else None


def compare_reports(*paths: Path, samples: int = SAMPLES, seed: int = 0) -> str:
    """Markdown: what the reports are, and every metric of the splits that they share with the differences of all pairs.

    Raises `UserError` where they share no split, or did not score the same expressions or count in the same way.
    """
    reports = [read_report(path) for path in paths]
    differences = differences_between(*paths, samples=samples, seed=seed)
    splits = list(dict.fromkeys(one.split for one in differences))
    letters = string.ascii_uppercase[: len(paths)]
    heads = [f"- {letter}: {path} ({_source(report)})" for letter, path, report in zip(letters, paths, reports)]
    heads += [
        f"- {letter}, {split}: {note}"
        for letter, report in zip(letters, reports)
        for split in splits
        for note in _notes(split, report["splits"].get(split))
    ]
    parts = ["\n".join(heads)]
    if len(paths) > 2:
        parts.append(markdown_table(_values_table(differences, letters)))
    parts += [markdown_table(_differences_table(differences, two=len(paths) == 2)), _explanation(differences, samples)]
    return "\n\n".join(parts)


def differences_between(*paths: Path, samples: int = SAMPLES, seed: int = 0) -> list[Difference]:
    """The metrics of all splits that reports share, for every pair of them; see `compare_reports`."""
    if not 2 <= len(paths) <= MOST:
        raise UserError(f"a comparison takes 2 to {MOST} reports, not {len(paths)}")
    reports = [read_report(path) for path in paths]
    gres_reference = [bool(report.get("protocol", {}).get("gres_reference")) for report in reports]
    if len(set(gres_reference)) > 1:
        names = " and ".join(str(paths[gres_reference.index(flag)]) for flag in (False, True))
        raise UserError(f"{names} were counted differently: only one of them was made with --gres_reference")
    rows = [_rows_of_report(path, report) for path, report in zip(paths, reports, strict=True)]
    found = []
    for keys in _shared(rows):
        some = [each[key] for each, key in zip(rows, keys, strict=True)]
        for other in some[1:]:
            _check_same(keys[0][0], some[0], other)
        unit = _unit_of(keys, reports, paths)
        answer = " / ".join(dict.fromkeys(answer for _, answer in keys))
        counting = {"gres_reference": gres_reference[0], "unit": unit}
        found += _differences(keys[0][0], answer, some, counting, samples=samples, seed=seed)
    if not found:
        names = " against ".join(", ".join(sorted({split for split, _ in each})) for each in rows)
        raise UserError(f"{' and '.join(map(str, paths))} share no split: {names}")
    return _with_corrected_p(found)


def _differences(
    split: str, answer: str, systems: Sequence[list[Row]], counting: dict[str, Any], *, samples: int, seed: int
) -> list[Difference]:
    """The differences of every pair of systems; counting: keyword arguments of `metrics_of`."""
    metrics = metrics_of(split, **counting)
    columns = [columns_of(split, rows, gres_reference=counting["gres_reference"]) for rows in systems]
    images = columns[0].images
    sums = [  # M x S of [I, 3]
        [metric.weighted_terms(each, counting["unit"]).by_image(images) for each in columns] for metric in metrics
    ]
    totals = resample(np.concatenate([one for own in sums for one in own], axis=1), samples, seed)  # [B, 3 M S]
    resampled = iter(np.split(totals, len(metrics) * len(columns), axis=1))
    found = []
    for metric, own in zip(metrics, sums, strict=True):
        values = [ratios(one.sum(0, keepdims=True), metric.zero).item() for one in own]
        draws = [ratios(next(resampled), metric.zero) for _ in own]
        for first, second in itertools.combinations(range(len(own)), 2):
            changes = draws[second] - draws[first]
            bounds = interval(changes)
            if np.isnan(values[first]) or np.isnan(values[second]) or bounds is None:
                continue
            found.append(
                Difference(
                    split,
                    answer,
                    metric.name,
                    metric.heading,
                    values[first],
                    values[second],
                    *bounds,
                    p_value(changes[~np.isnan(changes)]),
                    images,
                    string.ascii_uppercase[first],
                    string.ascii_uppercase[second],
                    _deviation(own[first], own[second]),
                )
            )
    return found


def _deviation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Standard deviation over images of the paired difference of two ratios, from their sums [I, 3]."""
    if len(first) < 2 or not (first[:, 1].sum() and second[:, 1].sum()):
        return None
    deviation = float(np.std(influence(second[:, :2]) - influence(first[:, :2]), ddof=1))
    return deviation if deviation > 1e-12 else None


def _with_corrected_p(found: Sequence[Difference]) -> list[Difference]:
    """The same with `p_holm`: the comparisons of one metric are a family."""
    corrected = list(found)
    for metric in dict.fromkeys(one.metric for one in found):
        family = [index for index, one in enumerate(found) if one.metric == metric]
        for index, p in zip(family, holm([found[index].p for index in family]), strict=True):
            corrected[index] = replace(found[index], p_holm=p)
    return corrected


def _unit_of(keys: Sequence[tuple[str, str]], reports: Sequence[dict[str, Any]], paths: Sequence[Path]) -> str:
    """What has the weight of one in an entry of all reports; raises `UserError` where they differ."""
    units = []
    for (split, answer), report in zip(keys, reports, strict=True):
        scores = report["splits"].get(split, {})
        units.append(scores.get(answer, scores).get("protocol", {}).get("unit", UNITS[0]))
    if len(set(units)) > 1:
        counted = ", ".join(f"{path} by {unit}" for path, unit in zip(paths, units, strict=True))
        raise UserError(f"{keys[0][0]} was counted differently: {counted}; score them with the same --unit")
    return unit_of(keys[0][0], units[0])


# --- rows of reports --------------------------------------------------------------------------------------------------


def _rows_of_report(path: Path, report: dict[str, Any]) -> dict[tuple[str, str], list[Row]]:
    """The rows beside a report, if they are those that its scores were computed from."""
    rows = read_rows(path)
    for (split, answer), some in rows.items():
        scores = report["splits"].get(split, {})
        scores = scores.get(answer, scores)  # by answer where a report has several
        if scores.get("protocol", {}).get("answer", answer) != answer:
            raise UserError(f"{path} and its rows do not match: the rows of {split} are of other answers")
        reported = scores.get("images"), scores.get("expressions")
        counted = len({row.item for row in some}), len(some)
        if reported != counted:
            raise UserError(
                f"{path} and its rows do not match: {split} has {reported[0]} images and {reported[1]} "
                f"expressions there, and {counted[0]} and {counted[1]} in the rows; evaluate again"
            )
    return rows


def _shared(reports: Sequence[dict[tuple[str, str], list]]) -> list[tuple[tuple[str, str], ...]]:
    """The entries of all: equal answers where all have them, else one answer each where each has one."""
    shared: list[tuple[tuple[str, str], ...]] = []
    for split in dict.fromkeys(split for split, _ in reports[0]):
        own = [[key for key in report if key[0] == split] for report in reports]
        same = [(key,) * len(reports) for key in own[0] if all(key in report for report in reports)]
        shared += same or ([tuple(keys[0] for keys in own)] if all(len(keys) == 1 for keys in own) else [])
    return shared


def _check_same(split: str, a: list[Row], b: list[Row]) -> None:
    names_a, names_b = ({(row.item, row.image, row.expression) for row in rows} for rows in (a, b))
    if names_a != names_b:
        item, image, expression = min(names_a ^ names_b)
        raise UserError(
            f"{split}: the reports scored different expressions ({len(names_a)} and {len(names_b)}), such as "
            f"expression {expression} of {image}; evaluate both on the same data and with the same --limit, and repair "
            "what was left out of one of them"
        )


# --- as Markdown ------------------------------------------------------------------------------------------------------


def _values_table(differences: Sequence[Difference], letters: str) -> list[list[str]]:
    """A line for each metric of a split, a column for each report."""
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in differences:
        values.setdefault((one.split, one.answer, one.heading), {}).update({one.first: one.a, one.second: one.b})
    rows = [["split", "answer", "metric", *letters]]
    for key, by_letter in values.items():
        rows.append([*key, *(percent(by_letter[letter]) if letter in by_letter else "none" for letter in letters)])
    return rows


def _differences_table(differences: Sequence[Difference], *, two: bool) -> list[list[str]]:
    """A line for each metric of a split and pair; the values and no pair where there are two reports."""
    about = ["A", "B", "B - A"] if two else ["pair", "difference"]
    rows = [["split", "answer", "metric", *about, "95 % interval", "effect", "p", "p (Holm)", "images", "for 1 point"]]
    for one in differences:
        values = [percent(one.a), percent(one.b)] if two else [f"{one.second} - {one.first}"]
        rows.append(
            [
                one.split,
                one.answer,
                one.heading,
                *values,
                percent(one.difference, "+"),
                f"{percent(one.low, '+')} to {percent(one.high, '+')}",
                "-" if one.effect is None else f"{one.effect:+.2f}",
                f"{one.p:.4f}",
                f"{one.p_holm:.4f}",
                str(one.images),
                "-" if one.images_for_a_point is None else str(one.images_for_a_point),
            ]
        )
    return rows


def _explanation(differences: Sequence[Difference], samples: int) -> str:
    most = max(sum(one.metric == metric for one in differences) for metric in {one.metric for one in differences})
    return (
        f"Percent. Paired bootstrap over images, {samples} resamples; an interval without 0 is a difference. effect: "
        "the difference in standard deviations over images. p (Holm): corrected for all comparisons of the same metric "
        f"in this table (at most {most}). for 1 point: images at which a true difference of one point is shown in four "
        "of five comparisons of these two."
    )


def _notes(split: str, scores: Any) -> Iterable[str]:
    """What must be known beside a split's scores, or those of each answer, every note once."""
    if not isinstance(scores, dict):
        return []
    each = [scores] if "protocol" in scores else [one for one in scores.values() if isinstance(one, dict)]
    return dict.fromkeys(note for one in each for note in (left_out_note(one), selection_note(split, one)) if note)


def _source(report: dict[str, Any]) -> str:
    source = report.get("checkpoint", {}).get("version") or report.get("predictions", {}).get("file")
    return printable(f"{source or 'unknown source'}, answer {report.get('protocol', {}).get('answer', 'unknown')}")
