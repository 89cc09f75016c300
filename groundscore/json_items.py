"""Large JSON files a few items at a time: a list of a million annotations never lies in memory as Python objects.

    content = read_members(path)                # {"images": Items, "annotations": Items, …}
    for annotation in content["annotations"]:   # each pass over the items decodes them again, 64 KB at a time
        ...

A list is cut between two of its items where the text looks like such a place, and what lies between two cuts is
decoded. It is JSON only if the guess was right: whether a text is JSON up to a comma, inside that very list, does not
depend on what follows. Where a guess was wrong, brackets are counted. A file that cannot be cut, or is not JSON, is
decoded whole by `parse_json`, which says what is wrong with it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from groundscore.errors import UserError
from groundscore.reading import MISSING, decode_strictly, read_bytes, read_json

CHUNK = 1 << 16  # bytes that are decoded at once; their objects stay in the processor's cache
_GUESSES = 2  # before brackets are counted
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*")
_KEY = re.compile(rb'[ \t\r\n]*"([^"\\\x00-\x1f]*)"[ \t\r\n]*:[ \t\r\n]*')
_NEXT_ITEM = re.compile(rb'[ \t\r\n]*,[ \t\r\n]*\{[ \t\r\n]*"[^"\\]*"')
_BOM = b"\xef\xbb\xbf"

Chunk = tuple[int, int, list]  # where its text begins and ends, and the items


class Items(Iterable[Any]):
    """The items of a list in a JSON file, read from there for every pass over them."""

    def __init__(self, path: Path, spans: list[tuple[int, int]]):
        self._path = path
        self._spans = spans
        self._state = _state(path)

    def __iter__(self) -> Iterator[Any]:
        with self._path.open("rb") as file:
            for start, end in self._spans:
                file.seek(start)
                text = file.read(end - start)
                if _state(self._path) != self._state:
                    raise UserError(f"{self._path} has changed while it was read; start again")
                yield from _decode_items(text, 0, len(text))


def read_items(path: Path, **options: Any) -> Iterator[Any]:
    """Yields the items of a JSON file that must hold a list; options as those of `read_json`.

    An error in the text is raised when it is reached.
    """
    content = read_bytes(path, **({"missing": options["missing"]} if "missing" in options else {}))
    count = 0
    try:
        start = _start(content, b"[")
        for _, end, items in _chunks(content, start):
            yield from items
            count += len(items)
            last = end
        _check_end(content, _close(content, last if count else start) + 1)
    except ValueError:
        del content
        yield from read_json(path, list, **options)[count:]


def read_members(path: Path, *, missing: str = MISSING, remedy: str = "download it again") -> dict[str, Any]:
    """Returns the members of the object in a JSON file; those that are lists as `Items`, or as lists."""
    content = read_bytes(path, missing=missing)
    try:
        return _members(path, content)
    except ValueError:
        del content
        return read_json(path, dict, missing=missing, remedy=remedy)


def _members(path: Path, content: bytes) -> dict[str, Any]:
    """Raises ValueError where it cannot be cut."""
    members: dict[str, Any] = {}
    at, more = _start(content, b"{"), True
    while more:
        found = _KEY.match(content, at)
        key = found[1].decode() if found else None
        if key is None or key in members:
            raise ValueError("a key that is read with the whole")
        at = found.end()
        if content[at : at + 1] == b"[":
            spans = [(start, end) for start, end, _ in _chunks(content, at + 1)]
            members[key] = Items(path, spans)
            at = _close(content, spans[-1][1] if spans else at + 1) + 1
        else:
            end = _end_of_value(content, at)
            members[key] = decode_strictly(content[at:end])
            at = end
        at = _skip_space(content, at)
        more = content[at : at + 1] == b","
        at += 1
    if content[at - 1 : at] != b"}":
        raise ValueError("no end")
    _check_end(content, at)
    return members


def _chunks(content: bytes, at: int) -> Iterator[Chunk]:
    """Yields runs of items of the list that begins before `at`, up to its end."""
    if content[_close_or_item(content, at)] == ord("]"):
        return
    separator = b""
    while True:
        items, cut = None, at + CHUNK
        for _ in range(_GUESSES if separator else 0):
            cut = content.rfind(separator, at, cut)
            items = _try_items(content, at, cut + 1) if cut >= 0 else None
            if items is not None or cut < 0:
                break
        if items is None:
            cut, separator = _count_brackets(content, at)
            items = _decode_items(content, at, cut + 1)
        if not items:
            raise ValueError("no item beside a comma")
        yield at, cut + 1, items
        at = _skip_space(content, cut + 1)
        if content[at : at + 1] != b",":
            return
        at += 1


def _count_brackets(content: bytes, at: int) -> tuple[int, bytes]:
    """Returns where the last byte of some items lies, and the text from there to the name of the next one's first key,
    which separates items; empty where none follows."""
    end, separator = at, b""
    while True:
        end = _end_of_value(content, end)
        last = len(content[at:end].rstrip()) + at - 1
        following = _NEXT_ITEM.match(content, last + 1)
        if following and content[last : last + 1] == b"}":
            separator = content[last : following.end()]
        if content[end : end + 1] != b"," or end - at >= CHUNK // 8:
            return last, separator
        end += 1


def _end_of_value(content: bytes, at: int) -> int:
    """Returns where the comma or the bracket lies that ends the value that begins at `at`."""
    depth = 0
    for token in _TOKEN.finditer(content, at):
        kind = content[token.start()]
        if kind in b"[{":
            depth += 1
        elif kind in b"]}":
            if depth == 0:
                return token.start()
            depth -= 1
        elif kind == ord(",") and depth == 0:
            return token.start()
    raise ValueError("it ends within a value")


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _try_items(content: bytes, start: int, end: int) -> list | None:
    try:
        return _decode_items(content, start, end)
    except ValueError:
        return None


def _decode_items(content: bytes, start: int, end: int) -> list:
    return decode_strictly(b"[%b]" % content[start:end])


def _start(content: bytes, bracket: bytes) -> int:
    """Returns where what is in the outermost brackets begins."""
    at = _skip_space(content, len(_BOM) if content.startswith(_BOM) else 0)
    if content[at : at + 1] != bracket:
        raise ValueError("another value")
    return at + 1


def _close(content: bytes, at: int) -> int:
    at = _skip_space(content, at)
    if content[at : at + 1] != b"]":
        raise ValueError("no end of a list")
    return at


def _close_or_item(content: bytes, at: int) -> int:
    at = _skip_space(content, at)
    if at == len(content):
        raise ValueError("it ends within a list")
    return at


def _skip_space(content: bytes, at: int) -> int:
    return _SPACE.match(content, at).end()


def _check_end(content: bytes, at: int) -> None:
    if _skip_space(content, at) != len(content):
        raise ValueError("something follows")
