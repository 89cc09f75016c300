"""Names that a user gives: lists joined by "||", and looking one up among those that there are."""

import difflib
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import TypeVar

from groundscore.errors import UserError
from groundscore.reading import MISSING

T = TypeVar("T")


def split_names(names: str) -> list[str]:
    """Returns the names in "a||b||c"."""
    return [name.strip() for name in names.split("||") if name.strip()]


def look_up(name: str, known: Mapping[str, T], kind: str) -> T:
    """Returns `known[name]`; raises `UserError`, which lists what there is, where `name` is unknown."""
    if name not in known:
        raise UserError(f"unknown {kind} {name!r}; known are {', '.join(sorted(known))}{did_you_mean(name, known)}")
    return known[name]


def add_new(known: MutableMapping[str, T], name: str, item: T, kind: str) -> None:
    """Adds `item` of a plugin under `name`; raises `UserError` where another one has this name."""
    if known.setdefault(name, item) is not item:
        raise UserError(f"a {kind} {name!r} already exists; give the one in {item.__module__} another name")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown name: the nearest known one, if it is near enough."""
    near = nearest(name, known)
    return "" if near is None else f". Did you mean {near!r}?"


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Returns the known name that is most like `name`, whatever its case; None where none is as like it as `likeness`,
    0 to 1."""
    folded = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=likeness)
    return folded[near[0]] if near else None


def files_like(path: Path) -> str:
    """Returns the end of an error message about a missing file: the one of its folder that may be meant."""
    return did_you_mean(path.name, (one.name for one in path.parent.glob(f"*{path.suffix}")))


def require_some(items: Iterable, where: str) -> None:
    """Raises `UserError` for a data set without any item."""
    if not any(True for _ in items):
        raise UserError(f"{where}: no files found; {MISSING}")
