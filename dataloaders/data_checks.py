"""Is a data folder complete? One report for every data set that the families know, see `inspect.py`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dataloaders.families import FAMILIES
from dataloaders.known_sets import Findings, KnownSet, names_in
from groundscore.annotations.bad_entries import Repair
from groundscore.annotations.json_files import BrokenFile
from groundscore.errors import UserError


@dataclass(frozen=True)
class Problem:
    """text: what is wrong. remedy: what to do about it. kind: "bad", "broken" or "incomplete", as in `Findings`."""

    kind: str
    text: str
    remedy: str


@dataclass
class SetReport:
    """What there is of a data set.

    family: its name. counts: entries per split. problems: what is wrong. notes: what is odd and yet in order.
    repairs: what is repaired while the set is read.
    """

    family: str
    known: KnownSet
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the set, such as "refcoco" or "ReasonSeg|val"."""
        return self.known.name

    @property
    def origin(self) -> str:
        """Where a user gets the files."""
        return self.known.origin

    @property
    def expected(self) -> list[Path]:
        """Files and folders that it needs, first its own."""
        return [*self.known.own, *self.known.shared]

    @property
    def found(self) -> list[Path]:
        """Those of `expected` that are there."""
        return [path for path in self.expected if path.exists()]

    @property
    def state(self) -> str:
        """ "present", "missing" (nothing of its own is there), or "bad"."""
        if not any(path.exists() for path in self.known.own):
            return "missing"
        return "bad" if self.problems else "present"

    def count(self, kind: str) -> int:
        """Returns how many problems there are of a kind."""
        return sum(problem.kind == kind for problem in self.problems)


def check_data(root: Path, *, decode: bool = False) -> Iterator[SetReport]:
    """Yields a report for every known set, each as soon as it is done. decode: open every image and draw every mask."""
    names_in.cache_clear()
    for family in FAMILIES.values():
        for known in family.known_sets(root):
            report = SetReport(family.name, known)
            if report.state != "missing":
                _check_set(report, decode)
            yield report


def _check_set(report: SetReport, decode: bool) -> None:
    """Fill in counts and problems of a set that is there, at least in part."""
    missing = [path for path in report.expected if not path.exists()]
    for path in missing:
        report.problems.append(Problem("incomplete", f"{path} is missing", f"download it: {report.origin}"))
    if missing:
        return
    findings = Findings()
    try:
        for split, entries in report.known.read(findings):
            report.counts[split] = len(entries)
            findings.check_entries(split, entries, decode=decode)
    except BrokenFile as error:
        findings.broken += error.problems
    except UserError as error:
        findings.broken.append(str(error))
    remedy = report.known.remedy or f"download it again: {report.origin}"
    leave_out = f"{remedy}; train_ds.py and eval.py leave such entries out up to --skip_bad_samples"
    for kind, texts, what_to_do in (
        ("broken", findings.broken, remedy),
        ("incomplete", findings.incomplete, f"fetch them: {report.origin}"),
        ("bad", findings.bad, leave_out),
    ):
        report.problems += [Problem(kind, text, what_to_do) for text in dict.fromkeys(texts)]
    report.notes, report.repairs = findings.notes, list(findings.repairs)
