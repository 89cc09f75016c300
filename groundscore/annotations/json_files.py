"""What is in JSON annotation files, with errors that name the file, the entry and what to do."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from groundscore.annotations.bad_entries import BadEntry
from groundscore.annotations.images import coco_number
from groundscore.annotations.records import Encoded, PackedRecords, encode
from groundscore.errors import UserError, shown
from groundscore.json_items import Items

NOT_OFFICIAL = "the file is not the official one, or of another version"  # what to say of downloaded annotations
MAX_NAME_BYTES = 255  # of a file, on all usual file systems
_LARGEST = 2**63 - 1  # what an index can hold
_PLAIN_PATH = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_NUMBERS = frozenset((int, float))


class BrokenFile(UserError):
    """A file has entries that are not built as its data set's are. problems: all of them; the message has the first."""

    def __init__(self, message: str, problems: Sequence[str]):
        super().__init__(message)
        self.problems = list(problems)


def require(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> Any:
    """Returns `record[key]`; where there is none, the error says which file and entry lack it, and what to do."""
    if not isinstance(record, dict):
        raise UserError(f"{where} should be an object with the key {key!r}, it is {shown(record)}; {remedy}")
    if key not in record:
        raise UserError(f"{where} has no {key!r}; {remedy}")
    return record[key]


def require_list(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> list | Items:
    """Returns the list under a key, or its `Items` in a file that is read by `read_members`."""
    value = require(record, key, where, remedy=remedy)
    if not isinstance(value, list | Items):
        raise UserError(f"{where}: {key!r} should be a list, it is {shown(value)}; {remedy}")
    return value


def require_text(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> str:
    """Returns the text under a key, which must not be empty."""
    value = require(record, key, where, remedy=remedy)
    if type(value) is str and value.isascii() and value and not value.isspace():
        return value
    return check_text(value, f"{where}: {key!r}", remedy=remedy)


def check_text(value: Any, where: str, *, remedy: str = NOT_OFFICIAL, empty: bool = False) -> str:
    """Returns `value`, which must be text that can be written; empty: it may be empty."""
    if isinstance(value, bytes):  # of Python 2, see `python2_text`
        raise UserError(f"{where} should be UTF-8 text, it is the bytes {shown(value)}; {remedy}")
    if not isinstance(value, str) or not (empty or value.strip()):
        raise UserError(f"{where} should be text, it is {shown(value)}; {remedy}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where} contains a lone surrogate in {shown(value)}; {remedy}")
    return value


def require_integer(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> int:
    """Returns the whole number under a key."""
    value = require(record, key, where, remedy=remedy)
    if type(value) is int and -_LARGEST <= value <= _LARGEST:
        return value
    return check_integer(value, f"{where}: {key!r}", remedy=remedy)


def check_integer(value: Any, where: str, *, remedy: str = NOT_OFFICIAL) -> int:
    """Returns `value`, which must be a whole number that fits an index; of numpy too, and 3.0 for 3."""
    whole = isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and value.is_integer())
    if not whole or isinstance(value, bool):
        raise UserError(f"{where} is not a whole number but {shown(value)}; {remedy}")
    if not -_LARGEST <= value <= _LARGEST:
        raise UserError(f"{where} is too large a number: {shown(value)}; {remedy}")
    return int(value)


def require_boolean(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> bool:
    """Returns the boolean under a key; the words "true" and "false", 0 and 1 are neither."""
    return check_boolean(require(record, key, where, remedy=remedy), f"{where}: {key!r}", remedy=remedy)


def check_boolean(value: Any, where: str, *, remedy: str = NOT_OFFICIAL) -> bool:
    """Returns `value`, which must be true or false."""
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{where} should be true or false, it is {shown(value)}; {remedy}")
    return bool(value)


def require_path(record: Any, key: str, where: str, *, remedy: str = NOT_OFFICIAL) -> str:
    """Returns the path of a file under a key, below a folder of the data, with / also where it has \\."""
    value = require_text(record, key, where, remedy=remedy).replace("\\", "/")
    if len(value) <= MAX_NAME_BYTES and _PLAIN_PATH.fullmatch(value):
        return value
    path = PurePosixPath(value)
    if path.is_absolute() or re.match("[A-Za-z]:", value):
        raise UserError(f"{where}: {key!r} is an absolute path, {shown(value)}; write it from its data folder on")
    if ".." in path.parts or "\0" in value:
        raise UserError(f"{where}: the path {shown(value)} leaves its folder; annotations may only name files in there")
    if path.name.startswith(".") or not path.name:
        raise UserError(f"{where}: {key!r} should be the path of a file, it is {shown(value)}; {remedy}")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts):
        raise UserError(f"{where}: {key!r} has a name that is too long for a file: {shown(value)}; {remedy}")
    return value


def require_segmentation(annotation: Any, where: str, *, remedy: str = NOT_OFFICIAL) -> list | dict:
    """Returns the 'segmentation' of a COCO annotation: polygons or RLE.

    Only their form is checked, not whether they fit the image.
    """
    value = require(annotation, "segmentation", where, remedy=remedy)
    crowd = annotation.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise UserError(f"{where}: 'iscrowd' should be 0 or 1, it is {shown(crowd)}; {remedy}")
    if type(value) is list and all(type(part) is list and len(part) % 2 == 0 and are_numbers(part) for part in value):
        return value
    return check_segmentation(value, f"{where}: 'segmentation'", remedy=remedy)


def check_segmentation(value: Any, where: str, *, remedy: str = NOT_OFFICIAL) -> list | dict:
    """Returns `value`, which must be a list of polygons and RLE dictionaries, or one RLE dictionary."""
    if not isinstance(value, list | dict):
        raise UserError(f"{where} should be polygons or an RLE, it is {shown(value)}; {remedy}")
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict):
            _check_run_lengths(part, where, remedy)
        elif not isinstance(part, list) or len(part) % 2 or not are_numbers(part):
            raise UserError(
                f"{where}: a polygon is a flat list x0, y0, x1, y1, … of finite numbers, not {shown(part)}; {remedy}"
            )
    return value


def _check_run_lengths(value: dict, where: str, remedy: str) -> None:
    size = require_list(value, "size", where, remedy=remedy)
    for number in size:
        check_integer(number, f"{where}: a number of 'size'", remedy=remedy)
    counts = require(value, "counts", where, remedy=remedy)
    if len(size) != 2 or not (
        isinstance(counts, str | bytes) or (isinstance(counts, list) and set(map(type, counts)) <= {int})
    ):
        raise UserError(
            f"{where}: an RLE has a 'size' [height, width] and 'counts', a list of whole numbers or "
            f"text, not {shown(value)}; {remedy}"
        )


def are_numbers(values: list) -> bool:
    """Returns whether all of a list are finite numbers; text, true and false are none."""
    try:
        return _NUMBERS.issuperset(map(type, values)) and math.isfinite(sum(values))
    except (OverflowError, ValueError):  # beyond what a float holds; infinities of both signs
        return False


def by_id(items: Iterable[Any], where: str, *, remedy: str = NOT_OFFICIAL) -> dict[int, Any]:
    """Returns records by their 'id'. One may be there several times, but not with different content.

    where: file and kind of record, for errors.
    """
    found: dict[int, Any] = {}

    def read(item: Any, number: int) -> None:
        key = require_integer(item, "id", f"{where} number {number}", remedy=remedy)
        if found.setdefault(key, item) != item:
            raise UserError(f"{where} {key} occurs twice with different content; {remedy}")

    read_each(items, read)
    return found


def read_each_by_id(
    items: Iterable[Any], where: str, read: Callable[[int, Any], None], *, remedy: str = NOT_OFFICIAL
) -> list[str]:
    """Calls `read(id, record)` for every record, as `read_each` does, and returns what was wrong with the bad ones.

    One may be there several times, but not with different content. where: as in `by_id`. Of the records nothing is
    kept: `items` is passed over a second time where an id is there twice.
    """
    seen: set[int] = set()
    repeated: set[int] = set()
    unnamed: list[tuple[int, str]] = []

    def id_of(item: Any, number: int) -> int:
        return require_integer(item, "id", f"{where} number {number}", remedy=remedy)

    def read_new(item: Any, number: int) -> None:
        try:
            key = id_of(item, number)
        except UserError as error:
            unnamed.append((number, str(error)))
            return
        if key in seen:
            repeated.add(key)
            return
        seen.add(key)
        read(key, item)

    try:
        _, problems = read_each(items, read_new)
    finally:  # a record without an id, or with two contents, is worse than what it contains
        if repeated or unnamed:
            _refuse_ambiguous(items, where, repeated, unnamed, id_of, remedy)
    return problems


def _refuse_ambiguous(
    items: Iterable[Any],
    where: str,
    repeated: Collection[int],
    unnamed: Sequence[tuple[int, str]],
    id_of: Callable[[Any, int], int],
    remedy: str,
) -> None:
    """Raises where records have no id, or one of the `repeated` ids has different contents."""
    wrong, first = list(unnamed), {}
    without = {number for number, _ in unnamed}
    for number, item in enumerate(items):
        key = None if number in without else id_of(item, number)
        if key in repeated and first.setdefault(key, item) != item:
            wrong.append((number, f"{where} {key} occurs twice with different content; {remedy}"))
    _raise_broken([message for _, message in sorted(wrong)])


def entries_by_image(
    items: Iterable[Any], read: Callable[[Any, int], Any | None], image_of: Callable[[Any], str]
) -> dict[str, Any]:
    """Returns the tables of a list of entries about COCO images, as `open_entries` reads them.

    entries: what `read` makes of each, as in `read_each`, by the number in the file name that `image_of` finds in it.
    problems: what was wrong with the bad ones.
    """

    def read_packed(item: Any, number: int) -> tuple[Encoded, int] | None:
        entry = read(item, number)
        return None if entry is None else (encode(entry), coco_number(image_of(entry)))

    entries, problems = read_each(items, read_packed)
    return {
        "entries": PackedRecords([text for text, _ in entries], [number for _, number in entries]),
        "problems": problems,
    }


def read_each(items: Iterable[Any], read: Callable[[Any, int], Any | None]) -> tuple[list, list[str]]:
    """Returns what `read(item, number)` makes of every item, without None; and what was wrong with the bad ones.

    Raises one `BrokenFile` for all items that are not built as they should be.
    """
    values, problems, broken = [], [], []
    for number, item in enumerate(items):
        try:
            value = read(item, number)
        except BadEntry as error:
            problems.append(str(error))
        except BrokenFile as error:
            broken += error.problems
        except UserError as error:
            broken.append(str(error))
        else:
            if value is not None:
                values.append(value)
    _raise_broken(broken)
    return values, problems


def _raise_broken(broken: Sequence[str]) -> None:
    if broken:
        more = f" ({len(broken) - 1} more entries there are wrong)" if len(broken) > 1 else ""
        raise BrokenFile(f"{broken[0]}{more}", broken)
