"""The Runs tab: the experiments below the folder of runs, with their scores and curves."""

import shlex
import time
from pathlib import Path

import gradio as gr
import pandas

from dashboard import markup
from dashboard.context import Context
from dashboard.experiments import (
    Experiment,
    curve,
    find_experiments,
    find_folders,
    read_metrics,
    read_reports,
    read_scores,
    scalar_names,
)

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
        label="Everything in TensorBoard",
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


def _listing(experiments: list[Experiment], runs) -> str:
    if not experiments:
        return markup.hint(f"There is no experiment below {runs} yet; train_ds.py and eval.py write there.")
    rows = []
    for experiment in experiments:
        best = experiment.best or {}
        score = f"gIoU {best['gIoU']:.4f} · cIoU {best['cIoU']:.4f}" if _scored(best) else "not validated"
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
        shown += markup.note("Every validation of the chosen experiments")
        shown += markup.table(validations, ["experiment", "step", "split", "gIoU", "cIoU"])
    if reports:
        shown += markup.note("Their reports from eval.py")
        shown += markup.table(reports, ["experiment", "report", "split", "answer", "gIoU", "cIoU", "images"])
    return shown
