"""Declared shapes of the files that this program writes and reads back.

A shape is a function that complains about a value with `ShapeError`, naming where in the file it stands:

    MARKER = record({"step": whole(0), "files": mapping(record({"bytes": whole(0), "blake2b": optional(text)}))})
    content = read_json(path, MARKER)

`read_json` raises `DamagedFile`, one line for the user; who reads a file decides whether it is rebuilt or refused.
"""

import math
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from groundscore.errors import UserError
from groundscore.reading import decode_json

Shape = Callable[[Any, str], None]


class ShapeError(ValueError):
    """A value is not what was declared."""


class DamagedFile(UserError):
    """A file of ours does not hold what this program writes."""


def read_json(path: Path, shape: Shape) -> Any:
    """What a JSON file holds, of the declared shape. `DamagedFile` where it is not; no file is `FileNotFoundError`."""
    if os.path.lexists(path) and not path.is_file():
        raise DamagedFile(f"{path} is damaged (it is not a file)")
    return parse(path.read_bytes(), shape, str(path))


def parse(content: bytes | str, shape: Shape, name: str) -> Any:
    """What a JSON text holds, of the declared shape; `name` is that of the file, for `DamagedFile`."""
    try:
        value = decode_json(content.decode() if isinstance(content, bytes) else content)
        shape(value, "")
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{name} is damaged ({str(error).splitlines()[0][:200]})") from error
    return value


def set_aside(path: Path) -> Path:
    """Rename a damaged file to a free name beside it, `<name>.damaged`; the new path."""
    target = path.with_name(f"{path.name}.damaged")
    number = 2
    while os.path.lexists(target):
        target = path.with_name(f"{path.name}.damaged.{number}")
        number += 1
    os.rename(path, target)
    return target


def _fail(where: str, expected: str, value: Any) -> None:
    raise ShapeError(f"{where or 'the whole'} should be {expected}, and is a {type(value).__name__}")


def text(value: Any, where: str) -> None:
    """A text."""
    if not isinstance(value, str):
        _fail(where, "text", value)


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        _fail(where, "true or false", value)


def number(value: Any, where: str) -> None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail(where, "a number", value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ShapeError(f"{where} is not finite")
    if abs(value) > sys.float_info.max:
        raise ShapeError(f"{where} is out of range")


def anything(value: Any, where: str) -> None:
    """Whatever JSON can hold."""


def whole(least: int) -> Shape:
    """A whole number of at least `least`, and below 2^63."""

    def check(value: Any, where: str) -> None:
        if type(value) is not int:
            _fail(where, "a whole number", value)
        if not least <= value < 2**63:
            raise ShapeError(f"{where} is out of range")

    return check


def one_of(*values: Any) -> Shape:
    """One of some values, type included."""

    def check(value: Any, where: str) -> None:
        if not any(type(value) is type(known) and value == known for known in values):
            raise ShapeError(f"{where} should be one of {', '.join(map(repr, values))}")

    return check


def optional(shape: Shape) -> Shape:
    """None, or of the shape."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            shape(value, where)

    return check


def either(*shapes: Shape) -> Shape:
    """Of one of some shapes; the complaint is the last one's."""

    def check(value: Any, where: str) -> None:
        for shape in shapes[:-1]:
            try:
                return shape(value, where)
            except ShapeError:
                continue
        return shapes[-1](value, where)

    return check


def list_of(shape: Shape) -> Shape:
    """A list whose items have the shape."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            _fail(where, "a list", value)
        for index, item in enumerate(value):
            shape(item, f"{where}[{index}]")

    return check


def mapping(shape: Shape, *, at_least: Collection[str] = ()) -> Shape:
    """An object with any keys, `at_least` among them, whose values have the shape."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _fail(where, "an object", value)
        for key in at_least:
            if key not in value:
                raise ShapeError(f"{_below(where, key)} is missing")
        for key, item in value.items():
            shape(item, _below(where, key))

    return check


def record(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with known keys only; `optional` names those that may be absent."""
    known = {**(optional or {}), **required}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _fail(where, "an object", value)
        for key in required:
            if key not in value:
                raise ShapeError(f"{_below(where, key)} is missing")
        for key, item in value.items():
            if key not in known:
                raise ShapeError(f"{_below(where, key)} is unknown")
            known[key](item, _below(where, key))

    return check


def _below(where: str, key: str) -> str:
    shown = repr(key[:60])[1:-1]
    return f"{where}.{shown}" if where else shown
