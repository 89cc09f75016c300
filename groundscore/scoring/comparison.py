"""Is one report better than another? A paired bootstrap over the images that both have scored.

Both are resampled with the same draws, so that what makes an image hard for either cancels out.

Legend: I images, B resamples.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.errors import UserError, printable
from groundscore.scoring.bootstrap import interval, ratios, resample
from groundscore.scoring.counts import Row
from groundscore.scoring.metrics import columns_of, metrics_of
from groundscore.scoring.report import read_report, read_rows
from groundscore.scoring.tables import left_out_note, markdown_table

SAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """One metric of one split in both reports.

    heading: of its column in tables. a, b: its values. difference: b - a, low and high its 95 % interval.
    p: two-sided, how often resamples fall on the other side of no difference; at least 1 / (B + 1).
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

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a


def compare_reports(a: Path, b: Path, *, samples: int = SAMPLES, seed: int = 0) -> str:
    """Markdown: what both reports are, and every metric of the splits that they share with the difference B - A.

    Raises `UserError` where they share no split, or did not score the same expressions or count in the same way.
    """
    reports = [read_report(path) for path in (a, b)]
    differences = differences_between(a, b, samples=samples, seed=seed)
    heads = [f"- {letter}: {path} ({_source(report)})" for letter, path, report in zip("AB", (a, b), reports)]
    heads += [
        f"- {letter}, {split}: {note}"
        for letter, report in zip("AB", reports)
        for split in dict.fromkeys(one.split for one in differences)
        for note in _left_out_notes(report["splits"].get(split))
    ]
    rows = [["split", "answer", "metric", "A", "B", "B - A", "95 % interval", "p", "images"]]
    for one in differences:
        rows.append(
            [
                one.split,
                one.answer,
                one.heading,
                f"{100 * one.a:.2f}",
                f"{100 * one.b:.2f}",
                f"{100 * one.difference:+.2f}",
                f"{100 * one.low:+.2f} to {100 * one.high:+.2f}",
                f"{one.p:.4f}",
                str(one.images),
            ]
        )
    note = f"Percent. Paired bootstrap over images, {samples} resamples; an interval without 0 is a difference."
    return "\n".join([*heads, "", markdown_table(rows), "", note])


def differences_between(a: Path, b: Path, *, samples: int = SAMPLES, seed: int = 0) -> list[Difference]:
    """The metrics of all splits that two reports share; see `compare_reports`."""
    reports = [read_report(path) for path in (a, b)]
    gres_reference = [bool(report.get("protocol", {}).get("gres_reference")) for report in reports]
    if gres_reference[0] != gres_reference[1]:
        raise UserError(f"{a} and {b} were counted differently: only one of them was made with --gres_reference")
    rows = [_rows_of_report(path, report) for path, report in zip((a, b), reports, strict=True)]
    found = []
    for key_a, key_b in _shared(*rows):
        some = rows[0][key_a], rows[1][key_b]
        _check_same(key_a[0], *some)
        answer = key_a[1] if key_a == key_b else f"{key_a[1]} / {key_b[1]}"
        found += _differences(key_a[0], answer, *some, gres_reference=gres_reference[0], samples=samples, seed=seed)
    if not found:
        names = [", ".join(sorted({split for split, _ in each})) for each in rows]
        raise UserError(f"{a} and {b} share no split: {names[0]} against {names[1]}")
    return found


def _differences(
    split: str, answer: str, a: list[Row], b: list[Row], *, gres_reference: bool, samples: int, seed: int
) -> list[Difference]:
    metrics = metrics_of(split, gres_reference=gres_reference)
    columns = [columns_of(split, rows, gres_reference=gres_reference) for rows in (a, b)]
    images = columns[0].images
    sums = [
        np.concatenate([metric.terms(each).by_image(images) for each in columns], axis=1)  # [I, 6]
        for metric in metrics
    ]
    totals = resample(np.concatenate(sums, axis=1), samples, seed)  # [B, 6 M]
    found = []
    for metric, whole, own in zip(metrics, sums, np.split(totals, len(metrics), axis=1), strict=True):
        whole = whole.sum(0, keepdims=True)
        value_a, value_b = (ratios(whole[:, part], metric.zero).item() for part in (slice(3), slice(3, 6)))
        resampled = ratios(own[:, 3:], metric.zero) - ratios(own[:, :3], metric.zero)
        bounds = interval(resampled)
        if np.isnan(value_a) or np.isnan(value_b) or bounds is None:
            continue
        p = _p_value(resampled[~np.isnan(resampled)])
        found.append(Difference(split, answer, metric.name, metric.heading, value_a, value_b, *bounds, p, images))
    return found


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


def _p_value(differences: np.ndarray) -> float:
    """Two-sided; a resample without a difference counts to both sides, as for the interval."""
    differences = differences.round(12)  # 1e-17 is no difference
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, (2 * tail + 1) / (len(differences) + 1)))


def _shared(a: dict[tuple[str, str], list], b: dict[tuple[str, str], list]) -> list[tuple[Any, Any]]:
    """The entries of both: equal answers where both have them, else one answer against the other."""
    pairs = []
    for split in dict.fromkeys(split for split, _ in a):
        own, other = ([key for key in each if key[0] == split] for each in (a, b))
        same = [(key, key) for key in own if key in other]
        pairs += same or ([(own[0], other[0])] if len(own) == len(other) == 1 else [])
    return pairs


def _check_same(split: str, a: list[Row], b: list[Row]) -> None:
    names_a, names_b = ({(row.item, row.image, row.expression) for row in rows} for rows in (a, b))
    if names_a != names_b:
        item, image, expression = min(names_a ^ names_b)
        raise UserError(
            f"{split}: the reports scored different expressions ({len(names_a)} and {len(names_b)}), such as "
            f"expression {expression} of {image}; evaluate both on the same data and with the same --limit, and repair "
            "what was left out of one of them"
        )


def _left_out_notes(scores: Any) -> list[str]:
    """What is left out of a split's scores, or of those of each answer, every note once."""
    if not isinstance(scores, dict):
        return []
    each = [scores] if "protocol" in scores else [one for one in scores.values() if isinstance(one, dict)]
    return list(dict.fromkeys(note for note in map(left_out_note, each) if note))


def _source(report: dict[str, Any]) -> str:
    source = report.get("checkpoint", {}).get("version") or report.get("predictions", {}).get("file")
    return printable(f"{source or 'unknown source'}, answer {report.get('protocol', {}).get('answer', 'unknown')}")
