"""What is repaired while images and annotations are read, and the bad entries that are left out.

    with noting_repairs() as repairs:
        item = items[3]         # whatever is read in here may call `note_repair`

A repair leaves a usable entry and is counted. A `BadEntry` is left out, up to a share (`--skip_bad_samples`). Any other
`UserError` says that a file is not what it should be: it stops the program.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from ctypes import c_int64
from dataclasses import dataclass
from multiprocessing import RawValue
from pathlib import Path

from groundscore.errors import UserError

DEFAULT_SHARE = 0.01  # the official sets need less, and a set without a part of its images has more
FEW = 3  # bad entries that are permitted whatever their share, of a set that is at least four times as large
FIRST_DRAWS = 100  # a share of fewer draws than this says little
_REPAIRED = '{"kind": "repaired"'  # how the line of a repair begins


@dataclass(frozen=True)
class Repair:
    """file, entry: what was repaired, as an annotation file and "annotation 17". reason: what was wrong with it."""

    file: str
    entry: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.entry, self.reason)))

    def to_dict(self) -> dict[str, str]:
        """Returns content for JSON."""
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
        """Returns content for JSON, in the form of `Repair`."""
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
    """Note what was repaired for the innermost `noting_repairs`; elsewhere nobody asks. where: as in `BadEntry.at`."""
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


class BadSamples:
    """Leaves out and records bad entries while `tolerance` permits.

    path: a JSON line is added to this file for every entry that is left out or repaired, one for all processes; None
        keeps no record.

    A few bad entries are permitted; from then on the run stops when more than the share of all draws (of the first
    hundred, until there are more) were bad. Draws are counted over the worker processes of this process.
    """

    def __init__(self, tolerance: Tolerance, path: Path | None = None):
        self.tolerance = tolerance
        self.path = path
        self.unnumbered: list[BadEntry] = []  # left out when annotation files were indexed
        self._left_out: set[str] = set()
        self._repaired: set[Repair] = set()
        self._draws = RawValue(c_int64)
        self._bad = RawValue(c_int64)

    @property
    def skipped(self) -> int:
        """Bad draws so far, in all worker processes together."""
        return self._bad.value

    def count_draw(self, source: str, repairs: Iterable[Repair]) -> None:
        """Count a good draw and record what was repaired in it."""
        self._draws.value += 1
        new = [repair for repair in repairs if repair not in self._repaired]
        self._repaired.update(new)
        self._list(source, [], [repair.to_dict() for repair in new])

    def skip_draw(self, source: str, error: UserError, entries: int) -> None:
        """Record a draw that failed; raises where it may not be left out. entries: how many the source has."""
        if not self.tolerance.permits(error):
            raise error
        self._draws.value += 1
        self._bad.value += 1
        if str(error) not in self._left_out:
            self._left_out.add(str(error))
            self._list(source, [error.to_dict()], [])
        bad, draws, share = self._bad.value, self._draws.value, self.tolerance.share
        if len(self._left_out) > self.tolerance.few(entries) and bad > max(1, share * max(draws, FIRST_DRAWS)):
            raise UserError(
                f"{bad} of {draws} draws were bad, more than --skip_bad_samples {share} allows{self._listed()}. "
                f"The last one: {error}"
            ) from error

    def skip_entries(self, source: str, problems: Sequence[str], good: int) -> None:
        """Record the bad entries of an annotation file that has `good` others; raises where they are too many."""
        entries = [BadEntry.of_text(problem) for problem in problems]
        self.unnumbered += entries
        self._list(source, [entry.to_dict() for entry in entries], [])
        total, share = good + len(problems), self.tolerance.share
        if len(problems) > self.tolerance.most(total):
            raise UserError(
                f"{source}: {len(problems)} of {total} entries are bad, more than --skip_bad_samples {share} "
                f"allows{self._listed()}. The first one: {problems[0]}"
            )

    def _listed(self) -> str:
        return "" if self.path is None else f"; they are listed in {self.path}"

    def _list(self, source: str, left_out: Sequence[dict], repaired: Sequence[dict]) -> None:
        if self.path is not None:
            list_bad_samples(self.path, source, left_out, repaired)


def list_bad_samples(path: Path, source: str, left_out: Iterable[dict], repaired: Iterable[dict]) -> None:
    """Add a line for every entry that no process has listed yet: which set, "file", "id" and "reason"."""
    entries = [{"kind": "left_out", "source": source, **entry} for entry in left_out]
    entries += [{"kind": "repaired", "source": source, **entry} for entry in repaired]
    if not entries:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        listed = set(file)
        lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        file.writelines(line for line in lines if line not in listed)


def describe_bad_samples(path: Path) -> str | None:
    """A sentence about the entries that `BadSamples` has listed in `path`; None where there are none."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    repaired = sum(line.startswith(_REPAIRED) for line in lines)
    return f"{len(lines) - repaired} left out, {repaired} repaired, all listed in {path}"


def settle(source: str, problems: Sequence[str], good: int, bad_samples: BadSamples | None) -> None:
    """Stop at the first bad entry of an annotation file, or leave them all to `bad_samples`."""
    if not problems:
        return
    if bad_samples is not None and bad_samples.tolerance.share > 0:
        bad_samples.skip_entries(source, problems, good)
        return
    more = f" ({len(problems) - 1} more entries there are bad)" if len(problems) > 1 else ""
    raise UserError(f"{problems[0]}{more}")
