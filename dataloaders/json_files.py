"""Reading JSON annotation files and what is in them, with errors that name the file and what to do."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from utils.errors import UserError, shown

NOT_OFFICIAL = "the file is not the official one, or of another version"  # what to say of downloaded annotations


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


def require(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> Any:
    """`record[key]`; where there is none, the error says which file and entry lack it, and what to do."""
    if not isinstance(record, dict):
        raise UserError(f"{where} should be an object with the key {key!r}, it is {shown(record, 80)}; {remedy}")
    if key not in record:
        raise UserError(f"{where} has no {key!r}; {remedy}")
    return record[key]


def require_list(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> list:
    """The same for a key that holds a list."""
    value = require(record, key, where, remedy=remedy)
    if not isinstance(value, list):
        raise UserError(f"{where}: {key!r} should be a list, it is {shown(value)}; {remedy}")
    return value


def require_text(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> str:
    """The same for a key that holds text with something in it."""
    value = require(record, key, where, remedy=remedy)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {key!r} should be text, it is {shown(value)}; {remedy}")
    return value


def require_integer(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> int:
    """The same for a key that holds a whole number, of numpy or written as text too."""
    value = require(record, key, where, remedy=remedy)
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {key!r} is not a number but {shown(value)}; {remedy}") from error


def require_path(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> str:
    """The same for a key that holds the path of a file below a folder of the data."""
    value = require_text(record, key, where, remedy=remedy)
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or "\0" in value:
        raise UserError(f"{where}: the path {shown(value)} leaves its folder; annotations may only name files in there")
    return value


def read_each(items: Iterable[Any], read: Callable[[Any, int], Any | None]) -> tuple[list, list[str]]:
    """What `read(item, number)` makes of every item, without None; and what was wrong with those that it refused."""
    values, problems = [], []
    for number, item in enumerate(items):
        try:
            value = read(item, number)
        except UserError as error:
            problems.append(str(error))
        else:
            if value is not None:
                values.append(value)
    return values, problems
