"""What experiments left on disk: the steps that they did, their scores, their curves."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundscore.schema import DamagedFile, ShapeError, anything, mapping, number, parse, read_json
from training.record_shapes import SCORES_SHAPE, metrics_line

METRICS = "metrics.jsonl"
SCORES = "scores.json"
DEEPEST = 3  # folders below the runs' own in which an experiment may lie
MOST_POINTS = 600  # of a curve on the page


@dataclass(frozen=True)
class Experiment:
    """name: the path below the folder of runs. step: the last recorded one, or None. best: the best validation so far
    (`split`, `step`, `gIoU`, `cIoU`), or None. changed: when it last wrote, in seconds since 1970. problem: what cannot
    be read, or None."""

    name: str
    directory: Path
    step: int | None
    best: dict[str, Any] | None
    changed: float
    problem: str | None = None


def find_folders(runs: Path) -> dict[str, Path]:
    """Every folder below `runs` with records, scores or reports of eval.py, by name; no link is followed."""
    found, waiting = {}, [(runs, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if depth and _files_of(folder):
            found[_shown_text(folder.relative_to(runs).as_posix())] = folder
        elif depth < DEEPEST:
            waiting += [(child, depth + 1) for child in _folders_in(folder)]
    return found


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without links; none where it cannot be read."""
    try:
        return [child for child in folder.iterdir() if child.is_dir() and not child.is_symlink()]
    except OSError:
        return []


def find_experiments(runs: Path) -> list[Experiment]:
    """What lies in the folders below `runs`, the newest first."""
    found = [_experiment(name, folder) for name, folder in find_folders(runs).items()]
    return sorted(found, key=lambda experiment: -experiment.changed)


def _files_of(folder: Path) -> list[Path]:
    files = [folder / name for name in (METRICS, SCORES) if (folder / name).is_file()]
    return [*files, *(folder / "eval").glob("*.json")]


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The records of a run in the order of their steps. A line that is being written, or damaged, is left out; where
    a run went back and did steps again, the later record counts."""
    records: dict[int, dict[str, Any]] = {}
    try:
        lines = (directory / METRICS).read_bytes().split(b"\n") if (directory / METRICS).is_file() else []
    except OSError:
        lines = []
    for line in lines:
        try:
            record = parse(line, metrics_line, METRICS)
        except DamagedFile:
            continue
        records[record["step"]] = records.get(record["step"], {}) | record
    return [records[step] for step in sorted(records)]


def scalar_names(records: list[dict[str, Any]]) -> list[str]:
    """What can be drawn as a curve, in the order in which it was recorded."""
    names: dict[str, None] = {}
    for record in records:
        names |= {
            name: None
            for name, value in record.items()
            if name != "step" and _is_number(value) and name == _shown_text(name)
        }
    return list(names)


def curve(records: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value), thinned evenly to `MOST_POINTS`; the last one stays."""
    points = [(record["step"], float(record[name])) for record in records if _is_number(record.get(name))]
    stride = math.ceil(len(points) / MOST_POINTS) or 1
    return points[::-1][::stride][::-1]


def read_scores(directory: Path) -> list[list[str]]:
    """A row per evaluation and split: step, split, gIoU, cIoU."""
    return [
        [str(entry["step"]), split, *(_shown(values[name]) for name in ("gIoU", "cIoU"))]
        for entry in _read_scores_file(directory)["evaluations"]
        for split, values in entry["splits"].items()
    ]


def _read_scores_file(directory: Path) -> dict[str, Any]:
    """What scores.json holds; nothing where there is none, or it is damaged."""
    try:
        return read_json(directory / SCORES, SCORES_SHAPE)
    except (OSError, DamagedFile):
        return {"best": None, "evaluations": []}


def read_reports(directory: Path) -> list[list[str]]:
    """A row per split and protocol of the reports that eval.py left with a run: report, split, answer, gIoU, cIoU,
    images."""
    rows = []
    for path in sorted([*directory.glob("*.json"), *(directory / "eval").glob("*.json")]):
        content = _read_json(path)
        if isinstance(content.get("splits"), dict) and isinstance(content.get("protocol"), dict):
            for split, scores in content["splits"].items():
                rows += [[path.stem, split, *_report_row(each)] for each in _protocols(scores)]
    return rows


def _protocols(scores: Any) -> list[dict[str, Any]]:
    """The scores of a split, one for each protocol: they lie a level deeper where there are two."""
    if not isinstance(scores, dict):
        return []
    return [scores] if "protocol" in scores else [each for each in scores.values() if isinstance(each, dict)]


def _report_row(scores: dict[str, Any]) -> list[str]:
    protocol = scores.get("protocol")
    answer = protocol.get("answer") if isinstance(protocol, dict) else None
    return [str(answer), *(_shown(scores.get(name)) for name in ("gIoU", "cIoU")), str(scores.get("images"))]


def _experiment(name: str, folder: Path) -> Experiment:
    records = read_metrics(folder)
    step = records[-1]["step"] if records else None
    changed, problem = 0.0, None
    for file in _files_of(folder):
        with contextlib.suppress(OSError):  # it went away just now
            changed = max(changed, file.stat().st_mtime)
    try:
        read_json(folder / SCORES, SCORES_SHAPE)
    except DamagedFile:
        problem = f"{SCORES} is damaged"
    except OSError:
        problem = f"{SCORES} cannot be read" if (folder / SCORES).exists() else None
    return Experiment(name, folder, step, _read_scores_file(folder)["best"], changed, problem)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is none, or none that can be read yet."""
    try:
        return read_json(path, mapping(anything))
    except (OSError, DamagedFile):
        return {}


def _shown_text(text: str) -> str:
    """Text that a browser can be sent: what UTF-8 cannot hold becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_number(value: Any) -> bool:
    try:
        number(value, "")
    except ShapeError:
        return False
    return True


def _shown(value: Any) -> str:
    return f"{value:.4f}" if _is_number(value) else "none"
