"""Scores as Markdown tables, for the terminal and for the file beside a report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from groundscore.errors import printable
from groundscore.scoring.left_out import left_out_note
from groundscore.scoring.scores import INTERVAL, kind_of

# What a table shows of each kind of split, and its heading.
SHOWN = {
    "plain": ("Segmentation", ("gIoU", "cIoU", "P@0.5", "P@0.7", "P@0.9")),
    "gres": ("Generalised referring segmentation", ("gIoU", "cIoU", "N_acc", "T_acc", "P@0.5")),
    "false_premise": ("False premises", ("See", "Segment", "Say", "gIoU")),
    "robust": ("Robust referring segmentation", ("rIoU", "mRR", "mIoU", "oIoU", "See", "Segment")),
    "muse": ("Many targets per question", ("gIoU", "cIoU", "gIoU_reference_pairs")),
}


def table(splits: Mapping[str, dict[str, Any]], *, nested: bool = False, explain: Mapping[str, str] = {}) -> str:
    """A table for each kind of split, a line per split and protocol; scores in percent with their 95 % intervals.

    splits: as in a report; nested: each split has an object per answer. explain: what the protocols' words mean.
    """
    entries = list(entries_of(splits, nested))
    parts = []
    for kind, (heading, names) in SHOWN.items():
        chosen = [entry for entry in entries if kind_of(entry[0]) == kind]
        if chosen:
            parts.append(f"**{heading}**\n\n{_table_of(chosen, names)}")
    parts += [
        f"**{split} ({scores['protocol']['answer']}): {note}**"
        for split, scores in entries
        if (note := left_out_note(scores))
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


def entries_of(splits: Mapping[str, dict[str, Any]], nested: bool) -> Iterable[tuple[str, dict[str, Any]]]:
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


def _table_of(entries: Sequence[tuple[str, dict[str, Any]]], names: Sequence[str]) -> str:
    counted = [name for name in ("images", "expressions", "silent") if any(name in scores for _, scores in entries)]
    counted += [name for name in ("left_out", "repaired") if any(scores.get(name) for _, scores in entries)]
    layers = any(scores.get("layers") for _, scores in entries)
    rows = [["split", "answer", "asked", *names, *counted, *(["layers"] if layers else [])]]
    for split, scores in entries:
        protocol = scores["protocol"]
        row = [split, protocol["answer"], protocol.get("expressions") or "-"]
        row += [_percent(scores, name) for name in names]
        row += [str(scores.get(name, "-")) for name in counted]
        if layers:
            row.append(" ".join(f"{layer}:{times}" for layer, times in scores.get("layers", {}).items()) or "-")
        rows.append(row)
    return markdown_table(rows)


def _percent(scores: Mapping[str, Any], name: str) -> str:
    if name not in scores:
        return "-"
    if scores[name] is None:
        return "none"
    interval = scores.get(name + INTERVAL)
    value = f"{100 * scores[name]:.2f}"
    return value if interval is None else f"{value} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
