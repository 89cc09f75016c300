"""The report of an evaluation: its scores, what they were computed from, and the files that hold them.

<name>.json  <name>.md  <name>.rows.jsonl  and, where asked for,  <name>.predictions.jsonl  <name>.html
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from groundscore.annotations.bad_entries import list_bad_samples
from groundscore.errors import UserError, shown
from groundscore.reading import parse_json, read_json, read_lines
from groundscore.schema import (
    Shape,
    ShapeError,
    anything,
    flag,
    list_of,
    mapping,
    number,
    one_of,
    optional,
    text,
    whole,
)
from groundscore.scoring import UNITS
from groundscore.scoring.counts import Row, SplitCounts, check_row, row_from_dict
from groundscore.scoring.gallery import Section, write_gallery
from groundscore.scoring.metrics import COUNTS, INTERVAL, METRICS, kind_of, unit_of
from groundscore.scoring.pages import report_facts
from groundscore.scoring.split_scores import score_split
from groundscore.scoring.tables import left_out_note, scores_table, selection_note, shown_scores
from groundscore.splits import EvaluationItem
from groundscore.writing import make_directory, write_lines

MOST_SECONDS = 2**32  # more than a century


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report, all named like its JSON file and beside it."""

    report: Path

    @property
    def table(self) -> Path:
        """The scores as Markdown."""
        return self.report.with_suffix(".md")

    @property
    def rows(self) -> Path:
        """The counts of every expression, from which all scores follow."""
        return self.report.with_suffix(".rows.jsonl")

    @property
    def gallery(self) -> Path:
        """Best, worst and random cases as one page."""
        return self.report.with_suffix(".html")

    @property
    def bad_samples(self) -> Path:
        """What was left out or repaired; there is none where nothing was."""
        return self.report.with_suffix(".bad_samples.jsonl")

    def predictions(self, answer: str | None = None) -> Path:
        """Saved predictions; answer: of the protocol, where a report has several."""
        return self.report.with_suffix(f".{answer}.predictions.jsonl" if answer else ".predictions.jsonl")


@dataclass
class Report:
    """Scores by split, or with several protocols by split and answer.

    header: what the report says besides. nested: every split has an object for each answer (`--answer both`).
    gres_reference, unit, bootstrap: see `score_split`. failed: a split could not be scored.
    selected_on: the splits, joined by "||", by whose scores the model was chosen; None where nobody has said.
    """

    header: dict[str, Any]
    nested: bool = False
    gres_reference: bool = False
    bootstrap: int = 1000
    selected_on: str | None = None
    unit: str = UNITS[0]
    splits: dict[str, dict] = field(default_factory=dict)
    failed: bool = False
    _counted: list[tuple[str, str, SplitCounts]] = field(default_factory=list)

    def add(self, spec: str, protocol: dict[str, Any], counts: SplitCounts, **beside: Any) -> None:
        """Scores what was counted; protocol: with "answer"; `beside` stands beside the scores."""
        scores = score_split(
            spec,
            counts.rows,
            gres_reference=self.gres_reference,
            unit=self.unit,
            conventions=True,
            bootstrap=self.bootstrap,
        )
        left_out = [one.to_dict() for one in counts.left_out]
        scores |= {"left_out": len(left_out), "repaired": len(counts.repaired)}
        scores |= {"left_out_entries": left_out, "repaired_entries": counts.repaired}
        protocol = protocol | {"unit": unit_of(spec, self.unit)}
        if self.selected_on:
            protocol = protocol | {"selected_on": self.selected_on}
        self._put(spec, scores | {"protocol": protocol} | beside)
        self._counted.append((spec, protocol["answer"], counts))

    def add_failure(self, spec: str, protocol: dict[str, Any], reason: str) -> None:
        """Adds an entry that says why a split has no scores."""
        self.failed = True
        self._put(spec, {"error": reason, "protocol": protocol})

    def _put(self, spec: str, scores: dict[str, Any]) -> None:
        if self.nested:
            self.splits.setdefault(spec, {})[scores["protocol"]["answer"]] = scores
        else:
            self.splits[spec] = scores

    def scores(self, spec: str, answer: str) -> dict[str, Any]:
        """The scores of a split under the protocol of an answer."""
        return self.splits[spec][answer] if self.nested else self.splits[spec]

    def to_dict(self) -> dict[str, Any]:
        """The report, as JSON can hold it."""
        layers: Counter[int] = Counter()
        for spec, answer, _ in self._counted:
            layers.update({int(layer): times for layer, times in self.scores(spec, answer).get("layers", {}).items()})
        return {"splits": self.splits, **self.header, "layers": {str(one): n for one, n in sorted(layers.items())}}

    def __str__(self) -> str:
        return self.table()

    def save(self, path: str | Path) -> None:
        """Writes the report, its table and its rows, as eval.py does: `path` is that of the JSON file."""
        self.write(place_for_report(Path(path)), self.table())

    def table(self, explain: Mapping[str, str] = {}) -> str:
        """See `tables.scores_table`."""
        return scores_table(self.splits, nested=self.nested, explain=explain)

    def write(self, files: ReportFiles, table: str) -> None:
        """Writes the rows, the table and the report, each file whole or not at all, and lists bad samples if any."""
        write_report(files.report, self.to_dict(), table, ((spec, ans, one.rows) for spec, ans, one in self._counted))
        files.bad_samples.unlink(missing_ok=True)
        for spec, _, counts in self._counted:
            list_bad_samples(files.bad_samples, spec, [one.to_dict() for one in counts.left_out], counts.repaired)

    def write_gallery(self, path: Path, sets: Mapping[str, Sequence[EvaluationItem]]) -> None:
        """Writes the page of best, worst and random cases; `sets`: the splits that were scored."""
        sections = []
        for spec, answer, counts in self._counted:
            scores = self.scores(spec, answer)
            title = " · ".join(filter(None, (spec, answer, scores["protocol"].get("expressions"))))
            note = " ".join(filter(None, (left_out_note(scores), selection_note(spec, scores))))
            sections.append(Section(title, sets[spec], counts.rows, counts.masks, note, shown_scores(spec, scores)))
        specs = ", ".join(dict.fromkeys(spec for spec, *_ in self._counted)) or path.stem
        system = self.header.get("checkpoint", {}).get("system")
        title = f"Gallery: {system} on {specs}" if system else f"Gallery of {specs}"
        write_gallery(path, title, sections, facts=report_facts(self.header))


# --- files ------------------------------------------------------------------------------------------------------------


def write_report(
    path: Path, report: dict[str, Any], table: str, rows: Iterable[tuple[str, str, Sequence[Row]]]
) -> None:
    """Writes a report and what belongs to it, each file whole or not at all; the report last.

    report: content with "splits"; table: Markdown; rows: (split, answer, its rows).
    """
    files = ReportFiles(path)
    lines = (
        json.dumps({"split": split, "protocol": answer, **row.to_dict()}) + "\n"
        for split, answer, some in rows
        for row in some
    )
    write_lines(files.rows, lines)
    write_lines(files.table, [f"# {path.stem}\n\n{table}\n"])
    write_lines(path, [json.dumps(report, indent=2, allow_nan=False) + "\n"])


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def place_for_report(path: Path) -> ReportFiles:
    """Makes the folder of a report and returns its files, before any work is spent on it.

    path: of the JSON file. Raises `UserError` where no report can be written under this name.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a file in it")
    if path.suffix != ".json":
        raise UserError(f"{path}: name a .json file for a report; its table and rows get the same name")
    refuse_foreign_report(path)
    make_directory(path.parent)
    return ReportFiles(path)


def refuse_foreign_report(path: Path) -> None:
    """Raises `UserError` where writing a report would replace a file that eval.py has not written."""
    table = ReportFiles(path).table
    if path.exists():
        try:
            content = read_json(path, missing="it is to be written")
            ours = isinstance(content, dict) and {"splits", "protocol"} <= content.keys()
        except UserError:
            ours = False
        if not ours:
            raise UserError(f"{path} exists and is not a report, which would replace it; name another file")
    elif table.exists():  # an evaluation that was killed may have left its table without the report
        with table.open(encoding="utf-8", errors="replace") as file:
            if file.readline().rstrip("\n") != f"# {path.stem}":
                raise UserError(f"{table} exists, and the report's table would replace it; name another file")


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report, of the declared shape; raises `UserError` where the file is none."""
    report = read_json(
        path, missing="name a report that `groundscore score --output` or eval.py wrote", remedy="evaluate again"
    )
    if not isinstance(report, dict) or not isinstance(report.get("splits"), dict):
        raise UserError(f"{path} is not a report: it has no 'splits'")
    try:
        _known(_REPORT)(report, "")
        _finite(report, "")
    except (ShapeError, RecursionError) as error:
        raise UserError(f"{path} is not a report ({error}); evaluate again") from error
    return report


def read_rows(report: Path) -> dict[tuple[str, str], list[Row]]:
    """The rows beside a report, by split and answer; raises `UserError` for a line that is none.

    A split has rows of one kind, and each expression once.
    """
    path = ReportFiles(report).rows
    if not path.exists():
        raise UserError(
            f"{path} is missing: the rows of {report.name}, which are written beside it; keep them together"
        )
    found: dict[tuple[str, str], list[Row]] = {}
    lines: dict[tuple[str, str, int, int], int] = {}
    for index, line in read_lines(path, missing="it is written beside its report"):
        where = f"{path}, line {index}"
        content = parse_json(line, where, remedy="evaluate again")
        try:
            _row_of_a_split(content, "")
        except ShapeError as error:
            raise UserError(f"{where} is not a row of a report ({error}); evaluate again") from error
        key = (content.pop("split"), content.pop("protocol"))
        row = row_from_dict(content)
        before = lines.setdefault((*key, row.item, row.expression), index)
        if before != index:
            raise UserError(f"{where} has the same expression as line {before}; evaluate again")
        found.setdefault(key, []).append(row)
    return found


# --- shapes of what is read -------------------------------------------------------------------------------------------


def _known(shapes: Mapping[str, Shape], at_least: Sequence[str] = ()) -> Shape:
    """The shape of an object whose known keys have theirs; others may hold anything."""

    def check(value: Any, where: str) -> None:
        mapping(anything, at_least=at_least)(value, where)
        for name in value.keys() & shapes.keys():
            shapes[name](value[name], f"{where}.{name}" if where else name)

    return check


def _between(low: float, high: float) -> Shape:
    def check(value: Any, where: str) -> None:
        number(value, where)
        if not low <= value <= high:
            raise ShapeError(f"{where} is outside {low:g} to {high:g}")

    return check


def _finite(value: Any, where: str) -> None:
    """Numbers that were not declared are finite, too."""
    if isinstance(value, dict):
        mapping(_finite)(value, where)
    elif isinstance(value, list):
        list_of(_finite)(value, where)
    elif isinstance(value, float):
        number(value, where)


_PROTOCOL = _known(
    {
        "answer": text,
        "expressions": optional(text),
        "layer": text,
        "gres_reference": flag,
        "selected_on": optional(text),
        "unit": one_of(*UNITS),
    }
)
_BESIDE: dict[str, Shape] = {name: whole(0) for name in COUNTS} | {
    "protocol": _PROTOCOL,
    "layers": mapping(whole(0)),
    "seconds": _between(0, MOST_SECONDS),
    "error": text,
    "left_out_entries": list_of(_known({"image": text, "reason": text}, at_least=("image", "reason"))),
}


def _scores(value: Any, where: str) -> None:
    """The scores of a split under one protocol: counts, metrics or None, and their intervals."""
    shapes = dict(_BESIDE)
    for metric in METRICS:
        score = _between(0, metric.most)
        shapes |= {metric.name: optional(score), metric.name + INTERVAL: optional(list_of(score))}
    _known(shapes)(value, where)


def _split(value: Any, where: str) -> None:
    """Scores, or with several protocols scores by answer."""
    mapping(anything)(value, where)
    (_scores if value.keys() & {"gIoU", "error"} else mapping(_scores))(value, where)


def _row_of_a_split(value: Any, where: str) -> None:
    """A line of rows: a row, and the split and protocol that it belongs to."""
    mapping(anything, at_least=("split", "protocol"))(value, where)
    text(value["split"], "split")
    text(value["protocol"], "protocol")
    check_row({key: one for key, one in value.items() if key not in ("split", "protocol")}, where)
    if ("intersections" in value) != (kind_of(value["split"]) == "muse"):
        raise ShapeError(f"split {shown(value['split'])} has rows of another kind")


_SOURCE = _known({"version": text, "file": text})
_REPORT: dict[str, Shape] = {
    "splits": mapping(_split),
    "protocol": _PROTOCOL,
    "checkpoint": _SOURCE,
    "predictions": _SOURCE,
    "layers": mapping(whole(0)),
}
