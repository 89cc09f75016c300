"""What a family of data sets is, and how one is looked up by name."""

import difflib
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import numpy as np

from dataloaders.sample import Sample
from groundscore.errors import UserError

MAX_TRIES = 100  # draws without a usable target before a data set is called empty

T = TypeVar("T")


class Family(Protocol):
    """A kind of data: draws samples from the data sets it was given."""

    name: str

    def draw(self, rng: np.random.Generator) -> Sample:
        """A sample that depends on `rng` only."""

    def sizes(self) -> dict[str, int]:
        """How many pictures, dialogues or entries each data set has to draw from."""


def split_names(names: str) -> list[str]:
    """The names in "a||b||c"."""
    return [name.strip() for name in names.split("||") if name.strip()]


def look_up(name: str, known: dict[str, T], kind: str) -> T:
    """`known[name]`, or an error that lists what there is."""
    if name not in known:
        raise UserError(f"unknown {kind} {name!r}; known are {', '.join(sorted(known))}{did_you_mean(name, known)}")
    return known[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest of those that there are, if it is near enough."""
    folded = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    return f". Did you mean {folded[near[0]]!r}?" if near else ""


def draw_until(attempt: Callable[[], T | None], what: str) -> T:
    """The first result of `attempt` that is not None."""
    for _ in range(MAX_TRIES):
        result = attempt()
        if result is not None:
            return result
    raise UserError(f"{what}: {MAX_TRIES} draws in a row had nothing to segment; are the annotations complete?")


def require_some(items: Iterable, where: str) -> None:
    """Refuse a data set without any item."""
    if not any(True for _ in items):
        raise UserError(f"{where}: nothing there; see dataloaders/README.md for where files go")
