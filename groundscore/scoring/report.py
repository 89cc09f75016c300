"""Reports on disk: the scores as JSON, a Markdown table, and the rows that they were computed from.

<name>.json   <name>.md   <name>.rows.jsonl
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.reading import parse_json, read_json, read_lines
from groundscore.schema import (
    Shape,
    ShapeError,
    anything,
    flag,
    list_of,
    mapping,
    number,
    optional,
    text,
    whole,
)
from groundscore.scoring.counts import Row, check_row, row_from_dict
from groundscore.scoring.scores import INTERVAL, kind_of, metrics_of

MOST_SECONDS = 2**32  # more than a century


def rows_path(report: Path) -> Path:
    """Where the rows of a report lie."""
    return report.with_suffix(".rows.jsonl")


def write_report(
    path: Path, report: dict[str, Any], table: str, rows: Iterable[tuple[str, str, Sequence[Row]]]
) -> None:
    """Write a report and what belongs to it, each file whole or not at all; the report last.

    report: content with "splits"; table: Markdown; rows: (split, answer, its rows).
    """
    lines = (
        json.dumps({"split": split, "protocol": answer, **row.to_dict()}) + "\n"
        for split, answer, some in rows
        for row in some
    )
    write_whole(rows_path(path), lines)
    write_whole(path.with_suffix(".md"), [f"# {path.stem}\n\n{table}\n"])
    write_whole(path, [json.dumps(report, indent=2, allow_nan=False) + "\n"])


def refuse_foreign_report(path: Path) -> None:
    """Raise `UserError` where writing a report would replace a file that eval.py has not written."""
    table = path.with_suffix(".md")
    if path.exists():
        try:
            content = read_json(path, missing="it is to be written")
            ours = isinstance(content, dict) and {"splits", "protocol"} <= content.keys()
        except UserError:
            ours = False
        if not ours:
            raise UserError(f"{path} exists and is no report of eval.py, which would replace it; name another file")
    elif table.exists():  # an evaluation that was killed may have left its table without the report
        with table.open(encoding="utf-8", errors="replace") as file:
            if file.readline().rstrip("\n") != f"# {path.stem}":
                raise UserError(f"{table} exists, and the report's table would replace it; name another file")


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report, of the declared shape; raises `UserError` where the file is none."""
    report = read_json(path, missing="name a report that eval.py wrote", remedy="evaluate again")
    if not isinstance(report, dict) or not isinstance(report.get("splits"), dict):
        raise UserError(f"{path} is not a report of eval.py: it has no 'splits'")
    try:
        _with_known(_PARTS, report, "")
        _finite(report, "")
    except (ShapeError, RecursionError) as error:
        raise UserError(f"{path} is not a report of eval.py ({error}); evaluate again") from error
    return report


def read_rows(report: Path) -> dict[tuple[str, str], list[Row]]:
    """The rows beside a report, by split and answer; raises `UserError` for a line that is none.

    A split has rows of one kind, and each expression once.
    """
    path = rows_path(report)
    if not path.exists():
        raise UserError(
            f"{path} is missing: the rows of {report.name}, which eval.py writes beside it; keep them together"
        )
    found: dict[tuple[str, str], list[Row]] = {}
    lines: dict[tuple[str, str, int, int], int] = {}
    for place, line in read_lines(path, missing="eval.py writes it beside its report"):
        where = f"{path}, line {place}"
        content = parse_json(line, where, remedy="evaluate again")
        try:
            _row_of_a_split(content, "")
        except ShapeError as error:
            raise UserError(f"{where} is not a row of a report ({error}); evaluate again") from error
        key = (content.pop("split"), content.pop("protocol"))
        row = row_from_dict(content)
        before = lines.setdefault((*key, row.item, row.expression), place)
        if before != place:
            raise UserError(f"{where} is about the same expression as line {before}; evaluate again")
        found.setdefault(key, []).append(row)
    return found


def _row_of_a_split(value: Any, where: str) -> None:
    """The shape of a line: a row, and the split and protocol that it belongs to."""
    mapping(anything, at_least=("split", "protocol"))(value, where)
    text(value["split"], "split")
    text(value["protocol"], "protocol")
    check_row({key: one for key, one in value.items() if key not in ("split", "protocol")}, where)
    if ("intersections" in value) != (kind_of(value["split"]) == "muse"):
        raise ShapeError(f"split {shown(value['split'])} has rows of another kind")


def _share(value: Any, where: str) -> None:
    number(value, where)
    if not 0 <= value <= 1:
        raise ShapeError(f"{where} is outside 0 to 1")


def _scores(value: Any, where: str) -> None:
    """The scores of a split under one protocol: counts, metrics from 0 to 1 or None, and their intervals."""
    mapping(anything)(value, where)
    for name, one in value.items():
        if name.endswith(INTERVAL):
            optional(list_of(_share))(one, f"{where}.{name}")
        elif name in _METRICS:
            optional(_share)(one, f"{where}.{name}")
        elif name in _OTHER:
            _OTHER[name](one, f"{where}.{name}")


def _finite(value: Any, where: str) -> None:
    """Numbers that were not declared are finite, too."""
    if isinstance(value, dict):
        mapping(_finite)(value, where)
    elif isinstance(value, list):
        list_of(_finite)(value, where)
    elif isinstance(value, float):
        number(value, where)


_NAMED: dict[str, Shape] = {"answer": text, "expressions": optional(text), "layer": text, "gres_reference": flag}


def _protocol(value: Any, where: str) -> None:
    _with_known(_NAMED, value, where)


def _seconds(value: Any, where: str) -> None:
    number(value, where)
    if not 0 <= value < MOST_SECONDS:
        raise ShapeError(f"{where} is out of range")


def _left_out(value: Any, where: str) -> None:
    mapping(anything, at_least=("image", "reason"))(value, where)
    _with_known({"image": text, "reason": text}, value, where)


_COUNTS = ("images", "expressions", "empty_targets", "absent", "rejected", "predictions", "targets", "pairs", "silent")
_COUNTS += ("left_out", "repaired")
_METRICS = {name for spec in ("MultiReasonSeg|", "grefcoco|", "R-|") for name in metrics_of(spec)}
_OTHER: dict[str, Shape] = {name: whole(0) for name in _COUNTS} | {
    "protocol": _protocol,
    "layers": mapping(whole(0)),
    "seconds": _seconds,
    "error": text,
    "left_out_entries": list_of(_left_out),
}


def _split(value: Any, where: str) -> None:
    """Scores, or with several protocols scores by answer."""
    mapping(anything)(value, where)
    (_scores if value.keys() & {"gIoU", "error"} else mapping(_scores))(value, where)


def _with_known(known: Mapping[str, Shape], value: Any, where: str) -> None:
    """An object whose known keys have their shapes; others may hold anything."""
    mapping(anything)(value, where)
    for name in value.keys() & known.keys():
        known[name](value[name], f"{where}.{name}" if where else name)


def _source(value: Any, where: str) -> None:
    _with_known({"version": text, "file": text}, value, where)


_PARTS: dict[str, Shape] = {
    "splits": mapping(_split),
    "protocol": _protocol,
    "checkpoint": _source,
    "predictions": _source,
    "layers": mapping(whole(0)),
}


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file whole or not at all; what UTF-8 cannot hold becomes "?"."""
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(pieces)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror})") from error
