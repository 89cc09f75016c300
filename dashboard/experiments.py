"""What experiments left on disk: the steps that they did, their scores, their curves."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.reading import decode_json, read_json

METRICS = "metrics.jsonl"
SCORES = "scores.json"
DEEPEST = 3  # folders below the runs' own in which an experiment may lie
MOST_POINTS = 600  # of a curve on the page


@dataclass(frozen=True)
class Experiment:
    """name: the path below the folder of runs. step: the last recorded one, or None. best: the best validation so far
    (`split`, `step`, `gIoU`, `cIoU`), or None. changed: when it last wrote, in seconds since 1970."""

    name: str
    directory: Path
    step: int | None
    best: dict[str, Any] | None
    changed: float


def find_folders(runs: Path) -> dict[str, Path]:
    """Every folder below `runs` with records, scores or reports of eval.py, by name; no link is followed."""
    found, waiting = {}, [(runs, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if depth and _files_of(folder):
            found[folder.relative_to(runs).as_posix()] = folder
        elif depth < DEEPEST and folder.is_dir():
            waiting += [(child, depth + 1) for child in folder.iterdir() if child.is_dir() and not child.is_symlink()]
    return found


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
    records = {}
    path = directory / METRICS
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                record = decode_json(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records[record["step"]] = records.get(record["step"], {}) | record
    return [records[step] for step in sorted(records)]


def scalar_names(records: list[dict[str, Any]]) -> list[str]:
    """What can be drawn as a curve, in the order in which it was recorded."""
    names: dict[str, None] = {}
    for record in records:
        names |= {name: None for name, value in record.items() if name != "step" and _is_number(value)}
    return list(names)


def curve(records: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value), thinned evenly to `MOST_POINTS`; the last one stays."""
    points = [(record["step"], float(record[name])) for record in records if _is_number(record.get(name))]
    stride = math.ceil(len(points) / MOST_POINTS) or 1
    return points[::-1][::stride][::-1]


def read_scores(directory: Path) -> list[list[str]]:
    """A row per evaluation and split: step, split, gIoU, cIoU."""
    content = _read_json(directory / SCORES)
    rows = []
    for entry in content.get("evaluations", []):
        for split, values in entry.get("splits", {}).items():
            rows.append([str(entry.get("step")), split, *(_shown(values.get(name)) for name in ("gIoU", "cIoU"))])
    return rows


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
    answer = (scores.get("protocol") or {}).get("answer")
    return [str(answer), *(_shown(scores.get(name)) for name in ("gIoU", "cIoU")), str(scores.get("images"))]


def _experiment(name: str, folder: Path) -> Experiment:
    records = read_metrics(folder)
    best = _read_json(folder / SCORES).get("best")
    step = records[-1]["step"] if records else None
    return Experiment(name, folder, step, best, max(file.stat().st_mtime for file in _files_of(folder)))


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is none, or none that can be read yet."""
    try:
        content = read_json(path, missing="nothing was scored")
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return f"{value:.4f}" if _is_number(value) else "none"
