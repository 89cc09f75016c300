"""Reports on disk: the scores as JSON, a Markdown table, and the rows that they were computed from.

<name>.json   <name>.md   <name>.rows.jsonl
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dataloaders.json_files import read_json
from utils.errors import UserError
from utils.reading import parse_json, read_lines

from .counts import Row, row_from_dict


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


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report; raises `UserError` where the file is none."""
    report = read_json(path, dict) if path.exists() else None
    if report is None:
        raise UserError(f"{path}: no such report")
    if not isinstance(report.get("splits"), dict):
        raise UserError(f"{path} is not a report of eval.py: it has no 'splits'")
    return report


def read_rows(report: Path) -> dict[tuple[str, str], list[Row]]:
    """The rows beside a report, by split and answer."""
    path = rows_path(report)
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the rows of {report.name}, which eval.py writes beside it; keep them together"
        )
    found: dict[tuple[str, str], list[Row]] = {}
    for number, line in read_lines(path, missing="eval.py writes it beside its report"):
        content = parse_json(line, f"{path}, line {number}", remedy="evaluate again")
        try:
            key = (content.pop("split"), content.pop("protocol"))
            found.setdefault(key, []).append(row_from_dict(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number} is not a row of a report ({error}); evaluate again") from error
    return found


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file whole or not at all; what UTF-8 cannot hold becomes "?"."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(pieces)
    os.replace(unfinished, path)
