"""The Runs tab: the experiments below the folder of runs, with their scores and curves."""

import contextlib
import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas

from checkpoints.runs.scores import RANKED, SCORES_SHAPE
from dashboard import markup
from dashboard.context import Context
from groundscore.schema import DamagedFile, ShapeError, anything, mapping, number, parse, read_json
from groundscore.scoring import percent
from groundscore.scoring.metrics import kind_of, table_columns
from training.records import metrics_line

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
    """A row per split and protocol of the reports that eval.py left with a run: report, split, answer, gIoU, cIoU, the
    other scores that tables show of the split, images."""
    rows = []
    for path in sorted([*directory.glob("*.json"), *(directory / "eval").glob("*.json")]):
        content = _read_json(path)
        if isinstance(content.get("splits"), dict) and isinstance(content.get("protocol"), dict):
            for split, scores in content["splits"].items():
                rows += [[path.stem, split, *_report_row(split, each)] for each in _protocols(scores)]
    return rows


def _protocols(scores: Any) -> list[dict[str, Any]]:
    """The scores of a split, one for each protocol: they lie a level deeper where there are two."""
    if not isinstance(scores, dict):
        return []
    return [scores] if "protocol" in scores else [each for each in scores.values() if isinstance(each, dict)]


def _report_row(split: str, scores: dict[str, Any]) -> list[str]:
    protocol = scores.get("protocol")
    answer = protocol.get("answer") if isinstance(protocol, dict) else None
    others = " · ".join(
        f"{metric.heading} {_shown(scores[name])}"
        for name, metric in table_columns(kind_of(split)).items()
        if name not in RANKED and name in scores
    )
    ranked = [_shown(scores.get(name)) for name in ("gIoU", "cIoU")]
    return [str(answer), *ranked, others, str(scores.get("images"))]


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
    return percent(value) if _is_number(value) else "none"


# --- the tab --------------------------------------------------------------------------------------------------------

FIRST_CURVE = "train/loss"
MOST_RUNS = 6  # drawn together


def runs_tab(context: Context) -> None:
    """Lay out the tab inside the current `gr.Blocks` and bind its events."""
    runs = context.runs_dir

    with gr.Row(elem_classes="actions"):
        chosen = gr.Dropdown(
            [], label="Experiments", multiselect=True, max_choices=MOST_RUNS, scale=5, elem_id="runs-chosen"
        )
        name = gr.Dropdown([], label="Curve", scale=2, elem_id="runs-curve")
        refresh = gr.Button("Refresh", scale=1, min_width=90, elem_id="runs-refresh")
    plot = gr.LinePlot(
        x="step",
        y="value",
        color="run",
        height=340,
        tooltip=["run", "step", "value"],
        elem_id="runs-plot",
    )
    listing = gr.HTML(elem_id="runs-list")
    scores = gr.HTML(elem_id="runs-scores")
    gr.Code(
        f".venv/bin/tensorboard --logdir {shlex.quote(str(runs))} --host 127.0.0.1",
        language=None,
        label="All runs in TensorBoard",
        interactive=False,
        lines=1,
        wrap_lines=True,
        show_line_numbers=False,
        buttons=["copy"],
        elem_id="runs-tensorboard",
    )
    first_look = gr.Timer(0.2)

    def draw(names, scalar):
        known = find_folders(runs)
        picked = {one: known[one] for one in (names or [])[:MOST_RUNS] if one in known}
        records = {name: read_metrics(folder) for name, folder in picked.items()}
        scalars = list(dict.fromkeys(one for lines in records.values() for one in scalar_names(lines)))
        if scalar not in scalars:
            scalar = FIRST_CURVE if FIRST_CURVE in scalars else next(iter(scalars), None)
        points = [
            {"step": step, "value": value, "run": run}
            for run, lines in records.items()
            for step, value in (curve(lines, scalar) if scalar else ())
        ]
        frame = pandas.DataFrame(points, columns=["step", "value", "run"])
        return [gr.update(choices=scalars, value=scalar), gr.update(value=frame, y_title=scalar), _scores(picked)]

    def look(names, scalar):
        known = {experiment.name: experiment for experiment in find_experiments(runs)}
        names = [one for one in (names or []) if one in known] or list(known)[:1]
        return [
            _listing(list(known.values()), runs),
            gr.update(choices=list(known), value=names),
            *draw(names, scalar),
            gr.Timer(active=False),
        ]

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    everything = [listing, chosen, name, plot, scores, first_look]
    gr.on([first_look.tick, refresh.click], look, [chosen, name], everything, **quiet)
    gr.on([chosen.input, name.input], draw, [chosen, name], [name, plot, scores], **quiet)


def _listing(experiments: list[Experiment], runs: Path) -> str:
    if not experiments:
        return markup.hint(f"There are no experiments in {runs} yet; train_ds.py and eval.py write them there.")
    rows = []
    for experiment in experiments:
        best = experiment.best or {}
        score = f"gIoU {percent(best['gIoU'])} · cIoU {percent(best['cIoU'])}" if _scored(best) else "not validated"
        score = experiment.problem or score
        where = f"{best.get('split')}, step {best.get('step')}" if _scored(best) else ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(experiment.changed))
        step = "none" if experiment.step is None else str(experiment.step)
        rows.append([experiment.name, step, score, where, when])
    return markup.table(rows, ["experiment", "last step", "best validation", "on", "last written"])


def _scored(best: dict) -> bool:
    return all(isinstance(best.get(name), int | float) for name in ("gIoU", "cIoU"))


def _scores(folders: dict[str, Path]) -> str:
    """What experiments, by name, scored: in validations while they trained and in reports of eval.py."""
    validations = [[name, *row] for name, folder in folders.items() for row in read_scores(folder)]
    reports = [[name, *row] for name, folder in folders.items() for row in read_reports(folder)]
    shown = ""
    if validations:
        shown += markup.note("All validations of the chosen experiments")
        shown += markup.table(validations, ["experiment", "step", "split", "gIoU", "cIoU"])
    if reports:
        shown += markup.note("Reports of eval.py")
        shown += markup.table(reports, ["experiment", "report", "split", "answer", "gIoU", "cIoU", "others", "images"])
    return shown
