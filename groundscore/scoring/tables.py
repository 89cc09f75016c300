"""Scores as Markdown tables, for the terminal and for the file beside a report; and what must be known beside them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from groundscore.errors import printable
from groundscore.names import split_names
from groundscore.scoring import UNITS, percent
from groundscore.scoring.metrics import INTERVAL, KINDS, Metric, conventions_of, kind_of, table_columns
from groundscore.splits import shares_images

Scores = Mapping[str, Any]  # of a split under one protocol, as in a report
SHOWN = 3  # left-out entries that a note names


def scores_table(splits: Mapping[str, Scores], *, nested: bool = False, explain: Mapping[str, str] = {}) -> str:
    """Tables by kind of split, a line per split and protocol; scores in percent with their 95 % intervals.

    splits: as in a report; nested: each split has an object per answer. explain: what the protocols' words mean.
    """
    entries = list(entries_of(splits, nested))
    parts = []
    for kind, heading in KINDS.items():
        chosen = [entry for entry in entries if kind_of(entry[0]) == kind]
        if chosen:
            parts.append(f"**{heading}**\n\n{_table_of(chosen, table_columns(kind))}")
    others = _conventions_table(entries)
    if len(others) > 1:
        parts.append(f"**The same predictions by other conventions**\n\n{markdown_table(others)}")
    parts += [
        f"**{split} ({scores['protocol']['answer']}): {note}**"
        for split, scores in entries
        for note in (left_out_note(scores), selection_note(split, scores))
        if note
    ]
    used = dict.fromkeys(
        str(scores["protocol"].get(name)) for _, scores in entries for name in ("answer", "expressions")
    )
    notes = [f"{word}: {explain[word]}" for word in used if word in explain]
    notes += [
        f"{split} ({scores['protocol']['answer']}) could not be scored: {printable(scores['error'])}"
        for split, scores in entries
        if "error" in scores
    ]
    notes.append("Percent, with 95 % intervals by bootstrap over images; none: metric not applicable.")
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)])


def shown_scores(split: str, scores: Scores) -> dict[str, str]:
    """The columns of a split's table with its scores as there, and how many images and expressions they are of."""
    shown = {metric.heading: _percent(scores, name) for name, metric in table_columns(kind_of(split)).items()}
    counts = {name: str(scores[name]) for name in ("images", "expressions") if name in scores}
    return {heading: value for heading, value in shown.items() if value != "-"} | counts


def entries_of(splits: Mapping[str, Any], nested: bool) -> Iterable[tuple[str, Scores]]:
    """Split and scores, for each answer where there are several."""
    for split, scores in splits.items():
        for one in scores.values() if nested else [scores]:
            yield split, one


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the header, as an aligned table."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def left_out_note(scores: Scores) -> str:
    """A sentence about the entries that a split's scores are without; empty where there are none.

    scores: those of earlier versions left nothing out.
    """
    entries = scores.get("left_out_entries", ())
    if not entries:
        return ""
    names = [entry["image"] or entry["reason"] for entry in entries[:SHOWN]]
    more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return printable(
        f"NOT THE WHOLE SPLIT: {len(entries)} bad {'entry is' if len(entries) == 1 else 'entries are'} left out "
        f"({', '.join(names)}{more}); compare only with scores of the same expressions"
    )


def selection_note(split: str, scores: Scores) -> str:
    """A sentence where the model or a setting of it was chosen by scores of the images that are scored; else empty."""
    chosen = [one for one in split_names(_selected_on(scores)) if shares_images(one, split)]
    if not chosen:
        return ""
    return printable(
        f"SELECTED ON THE SCORED SPLIT: the checkpoint or a setting was chosen by scores of {', '.join(chosen)}; these "
        "scores are too high for a comparison with systems that were selected elsewhere"
    )


def _selected_on(scores: Scores) -> str:
    """The splits that the model was selected on, joined by "||"; empty where that is not recorded."""
    return scores["protocol"].get("selected_on") or ""


def _table_of(entries: Sequence[tuple[str, Scores]], columns: Mapping[str, Metric]) -> str:
    counts = [name for name in ("images", "expressions", "silent") if any(name in scores for _, scores in entries)]
    counts += [name for name in ("left_out", "repaired") if any(scores.get(name) for _, scores in entries)]
    layers = any(scores.get("layers") for _, scores in entries)
    selected = any(_selected_on(scores) for _, scores in entries)
    headings = [metric.heading for metric in columns.values()]
    units = any(_unit(scores) != UNITS[0] for _, scores in entries)
    optional = {"by": units, "selected on": selected, "layers": layers}
    rows = [["split", "answer", "asked", *headings, *counts, *(name for name, used in optional.items() if used)]]
    for split, scores in entries:
        protocol = scores["protocol"]
        row = [split, protocol["answer"], protocol.get("expressions") or "-"]
        row += [_percent(scores, name) for name in columns]
        row += [str(scores.get(name, "-")) for name in counts]
        if units:
            row.append(_unit(scores))
        if selected:
            row.append(_selected_on(scores) or "-")
        if layers:
            row.append(" ".join(f"{layer}:{times}" for layer, times in scores.get("layers", {}).items()) or "-")
        rows.append(row)
    return markdown_table(rows)


def _conventions_table(entries: Sequence[tuple[str, Scores]]) -> list[list[str]]:
    """A line for each other way of counting that a split has scores of; the header alone where none has."""
    rows = [["counted", "split", "answer", "gIoU", "cIoU"]]
    for split, scores in entries:
        for convention, metrics in conventions_of(split).items():
            if any(scores.get(metric.name) is not None for metric in metrics.values()):
                cells = [_percent(scores, metrics[base].name) if base in metrics else "-" for base in rows[0][3:]]
                rows.append([convention, split, scores["protocol"]["answer"], *cells])
    return rows


def _unit(scores: Scores) -> str:
    """What has the weight of one in a split's scores."""
    return scores["protocol"].get("unit", UNITS[0])


def _percent(scores: Scores, name: str) -> str:
    if name not in scores:
        return "-"
    interval = scores.get(name + INTERVAL)
    value = percent(scores[name])
    return value if interval is None else f"{value} ({percent(interval[0])}–{percent(interval[1])})"
