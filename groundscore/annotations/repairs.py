"""What is mended while images and annotations are read, and the entries that nothing mends.

    with noting_repairs() as repairs:
        item = items[3]         # whatever is read in here may call `note_repair`

A repair leaves a usable entry and is counted. A `BadEntry` is left out, up to a share (`--skip_bad_samples`). Any other
`UserError` says that a file is not what it should be: it stops the program.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from groundscore.errors import UserError

DEFAULT_SHARE = 0.01  # the official sets need less, and a set without a part of its images has more
FEW = 3  # bad entries that are let pass whatever their share, of a set that is at least four times as large


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

    def to_dict(self) -> dict[str, str]:
        return {"file": self.file, "id": self.entry, "reason": str(self)}

    @classmethod
    def at(cls, where: str, reason: str) -> "BadEntry":
        """where: file and entry, as in "instances.json: annotation 17"."""
        file, _, entry = where.partition(": ")
        return cls(f"{where}: {reason}", file=file, entry=entry)

    @classmethod
    def of_text(cls, message: str) -> "BadEntry":
        """The entry again of which an index has kept the message, made by `at`."""
        file, entry, *_ = [*message.split(": ", 2), ""]
        return cls(message, file=file, entry=entry)


@dataclass(frozen=True)
class Tolerance:
    """How many bad entries may be left out, as a share of the entries of a set; with 0 the first one stops."""

    share: float = 0.0

    def __post_init__(self):
        if not 0 <= self.share < 1:
            raise UserError(f"--skip_bad_samples {self.share}: a share from 0 up to 1")

    def permits(self, error: UserError) -> bool:
        """Whether an entry with this error may be left out, if there are not too many."""
        return self.share > 0 and isinstance(error, BadEntry)

    def few(self, total: int) -> int:
        """How many of `total` entries may be left out whatever their share."""
        return min(FEW, total // 4) if self.share else 0

    def most(self, total: int) -> int:
        """How many of `total` entries may be left out."""
        return max(int(self.share * total), self.few(total))


STRICT = Tolerance()

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
