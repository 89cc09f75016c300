"""Reading JSON annotation files, with errors that name the file and what to do."""

import json
from pathlib import Path
from typing import Any

from utils.errors import UserError


def read_json(path: Path, kind: type | None = None) -> Any:
    """The value in a UTF-8 (or, in old annotations, Windows-1252) JSON file.

    kind: `list` or `dict`, where the file must hold one.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"annotation file {path} is missing; see dataloaders/README.md for where files go") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); fetch it anew") from error
    if kind is not None and not isinstance(value, kind):
        raise UserError(f"{path} should hold a JSON {kind.__name__}, it holds a {type(value).__name__}")
    return value


def require(record: Any, key: str, where: str) -> Any:
    """`record[key]`; where there is none, the error says which file and entry lack it."""
    if not isinstance(record, dict):
        raise UserError(f"{where} should be an object with the key {key!r}, it is {record!r:.80}")
    if key not in record:
        raise UserError(f"{where} has no {key!r}; the file is not the official one, or of another version")
    return record[key]
