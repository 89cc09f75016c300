"""What is mended while images and annotations are read, and the entries that nothing mends.

    with noting_repairs() as repairs:
        item = items[3]         # whatever is read in here may call `note_repair`

A repair leaves a usable entry and is counted. A `BadEntry` is left out, up to a share (`bad_samples.py`). Any other
`UserError` says that a file is not what it should be: it stops the program.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from utils.errors import UserError


@dataclass(frozen=True)
class Repair:
    """file, entry: what was mended, such as an annotation file and "annotation 17". reason: what was wrong with it."""

    file: str
    entry: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.entry, self.reason)))

    def to_dict(self) -> dict[str, str]:
        return {"file": self.file, "id": self.entry, "reason": self.reason}


class BadEntry(UserError):
    """An entry that cannot be used, though its file is well formed: a target without a pixel, a damaged image.

    message: all that a user is told. file, entry: as in `Repair`.
    """

    def __init__(self, message: str, *, file: str = "", entry: str = ""):
        super().__init__(message)
        self.file = file
        self.entry = entry

    @classmethod
    def at(cls, where: str, reason: str) -> "BadEntry":
        """where: file and entry, as in "instances.json: annotation 17"."""
        file, _, entry = where.partition(": ")
        return cls(f"{where}: {reason}", file=file, entry=entry)


_noted: ContextVar[dict[Repair, None] | None] = ContextVar("repairs", default=None)


def note_repair(where: str, reason: str) -> None:
    """Note what was mended for the innermost `noting_repairs`; elsewhere nobody asks. where: as in `BadEntry.at`."""
    noted = _noted.get()
    if noted is not None:
        file, _, entry = where.partition(": ")
        noted[Repair(file, entry, reason)] = None


@contextlib.contextmanager
def noting_repairs() -> Iterator[dict[Repair, None]]:
    """The repairs that are noted inside the `with` block, in order and each once, as the keys of a dictionary."""
    noted: dict[Repair, None] = {}
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
