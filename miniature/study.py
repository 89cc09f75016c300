"""What the two studies of the miniature share: rows are trained and audited seed by seed, and what they scored is kept.

Every run leaves one result file, from which the pages are made; a second call skips the runs that have one. All rows of
a seed run before those of the next, so that what disturbs the machine disturbs all rows alike and a page can be written
early. A run that was stopped goes on where its last checkpoint was.
"""

import argparse
import json
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean
from typing import Any

from groundscore.errors import UserError
from groundscore.progress import duration
from groundscore.reading import parse_json, read_json, read_lines
from groundscore.scoring.layer_rows import read_layer_rows
from miniature.programs import audit_command, pair_of, start, training_command
from miniature.study_results import Results, StudyRow, query_scores, read_results

# One split of every kind of query; the columns of the tables pool their expressions.
SPLITS = "ReasonSeg|val||refcoco|unc|val||grefcoco|unc|val||refzom|final|val||fprefcoco|val||R-refcoco|val"
SPLITS += "||MultiReasonSeg|val"
STEPS_BETWEEN_CHECKPOINTS = 100
DECIMALS = 6  # of the numbers in a result
SECONDS_PER_STEP, SECONDS_OF_SCORING = 0.6, 40  # on an idle core, where no run has told better


# --- the command line -------------------------------------------------------------------------------------------------


def add_study_arguments(parser: argparse.ArgumentParser, *, steps: int, seeds: str, limit: int, runs: str) -> None:
    """Adds the arguments of both studies, with these defaults."""
    parser.add_argument("--steps", type=int, default=steps, help=f"optimizer steps of each run ({steps})")
    parser.add_argument("--seeds", default=seeds, help=f"joined by commas ({seeds})")
    parser.add_argument("--limit", type=int, default=limit, help=f"images of each split ({limit})")
    parser.add_argument("--splits", default=SPLITS, help="held-out splits, joined by || (one of every kind)")
    parser.add_argument("--batch_size", type=int, default=8, help="images per step, over all processes (8)")
    parser.add_argument("--processes", type=int, default=1, help="training processes of a run (1)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time; of several each has a log of its own (1)"
    )
    parser.add_argument("--base", type=Path, default=Path("miniature/weights"), help="base models (miniature/weights)")
    parser.add_argument(
        "--decoder", type=Path, metavar="PATH", help="weights of a mask decoder that takes the place of the base's own"
    )
    parser.add_argument(
        "--dataset_dir", type=Path, default=Path("dataset/miniature_pretrain"), help="root of the training data"
    )
    parser.add_argument("--held_out", type=Path, help="root of the data to score on (default: --dataset_dir)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=Path, default=Path(runs), help=f"where runs and results are kept ({runs})")
    parser.add_argument("--out", type=Path, help="the page to write (default: page.md in --runs)")
    parser.add_argument("--page_only", action="store_true", help="write the page from existing results, train nothing")
    parser.add_argument("--dry_run", action="store_true", help="print what would run and about how long; do nothing")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def check_study(options: argparse.Namespace, script: str) -> list[int]:
    """Returns the seeds; raises `UserError` for arguments that cannot be. script: makes the data."""
    try:
        seeds = list(dict.fromkeys(int(seed) for seed in options.seeds.split(",")))
    except ValueError:
        raise UserError(f"--seeds {options.seeds}: expected numbers joined by commas") from None
    options.held_out = options.held_out or options.dataset_dir
    options.out = options.out or options.runs / "page.md"
    if min(options.steps, options.limit, options.jobs) < 1 or options.batch_size % options.processes:
        raise UserError("--steps, --limit and --jobs must be above 0, and --batch_size a multiple of --processes")
    paths = {"--dataset_dir": options.dataset_dir, "--held_out": options.held_out}
    for flag, path in {} if options.dry_run or options.page_only else paths.items():
        if not path.is_dir():
            raise UserError(f"{flag}: {path} does not exist; scripts/miniature/{script} --help says how to make it")
    return seeds


# --- runs -------------------------------------------------------------------------------------------------------------


def run_study(
    name: str,
    rows: Sequence[StudyRow],
    seeds: Sequence[int],
    options: argparse.Namespace,
    bases: dict[str, Path],
    write_page: Callable[[Results], None],
) -> None:
    """Trains and audits the runs that have no result yet, and writes the page after each; see the module's docstring.

    bases: the directory of each base by name. write_page: called with all results.
    """
    directory = options.runs / f"{options.steps}_steps"
    runs = [(row, seed) for seed in seeds for row in rows]
    todo = [run for run in runs if not result_path(directory, *run).exists()]
    print(f"[{name}] {len(runs)} runs, {len(runs) - len(todo)} of them already done, in {directory}")
    results = read_results(directory, rows)
    if not options.page_only:
        check_bases(results, rows, bases, options.decoder)
    if options.dry_run:
        print_plan(runs, todo, results, options, bases)
        return
    left = [] if options.page_only else list(todo)

    stopped = threading.Event()

    def run(row: StudyRow, seed: int) -> tuple[StudyRow, int] | None:
        if stopped.is_set():
            return None
        print(f"\n[{name}] {todo.index((row, seed)) + 1} of {len(todo)}: {row.title}, seed {seed}", flush=True)
        try:
            run_row(row, seed, directory, options, bases[row.base])
        except BaseException:
            stopped.set()  # here and not where the error arrives: until then this thread would begin the next run
            raise
        return row, seed

    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for future in as_completed([pool.submit(run, row, seed) for row, seed in left]):
                if done := future.result():
                    left.remove(done)
                    results = read_results(directory, rows)
                    write_page(results)
                    seconds = sum(estimate(row, results, options) for row, _ in left) / options.jobs
                    print(f"[{name}] about {duration(seconds)} left", flush=True)
        finally:
            stopped.set()  # a Ctrl-C: what runs ends by itself, nothing else begins
    if options.page_only or not todo:
        if not results:
            raise UserError(f"{directory} holds no result; run the study without --page_only first")
        write_page(results)
    print(f"[{name}] {options.out}")


def check_bases(results: Results, rows: Sequence[StudyRow], bases: dict[str, Path], decoder: Path | None) -> None:
    """Raises `UserError` where a base is none, or a row has a result from one of another backbone or mask decoder."""
    pairs = {name: pair_of(base, decoder) for name, base in bases.items()}
    for row in rows:
        for seed, result in results.get(row.name, {}).items():
            made_of = result["settings"].get("base")
            if made_of != pairs[row.base]:
                raise UserError(
                    f"the result of {run_name(row, seed)} is from a base of {made_of or 'unnamed parts'}, "
                    f"and this one is of {pairs[row.base]}; name another --runs"
                )


def print_plan(
    runs: Sequence[tuple[StudyRow, int]],
    todo: Sequence[tuple[StudyRow, int]],
    results: Results,
    options: argparse.Namespace,
    bases: dict[str, Path],
) -> None:
    """Prints every run in order, with the time that it is expected to take, and the commands of the first."""
    for row, seed in runs:
        shown = duration(estimate(row, results, options)) if (row, seed) in todo else "done"
        print(f"{run_name(row, seed):<36} {shown:>8}  {row.title}")
    total = sum(estimate(row, results, options) for row, _ in todo) / options.jobs
    known = sum(row.name in results for row in {row for row, _ in runs})
    source = f"{known} rows by their finished runs, the others by an idle core"
    print(f"{len(todo)} runs to go, about {duration(total)} ({source})")
    for row, seed in todo[:1]:
        run = options.runs / f"{options.steps}_steps" / run_name(row, seed)
        for command in commands_of(row, seed, run, options, bases[row.base]):
            print(shlex.join(command))


def estimate(row: StudyRow, results: Results, options: argparse.Namespace) -> float:
    """Seconds that a run of this row takes: the mean of its finished runs, else of all runs, else of an idle core."""
    known = results.get(row.name) or {(n, s): one for n, runs in results.items() for s, one in runs.items()}
    seconds = [sum(one["seconds"].values()) for one in known.values()]
    return mean(seconds) if seconds else options.steps * SECONDS_PER_STEP + SECONDS_OF_SCORING


def run_name(row: StudyRow, seed: int) -> str:
    """The name of a run's directory and of its result."""
    return f"{row.name}.seed{seed}"


def result_path(directory: Path, row: StudyRow, seed: int) -> Path:
    """The file with the result of a row and seed."""
    return directory / f"{run_name(row, seed)}.json"


def commands_of(
    row: StudyRow, seed: int, run: Path, options: argparse.Namespace, base: Path
) -> tuple[list[str], list[str]]:
    """The commands that train and audit a run."""
    each = STEPS_BETWEEN_CHECKPOINTS if options.steps % STEPS_BETWEEN_CHECKPOINTS == 0 else options.steps
    flags = f"--seed {seed} {row.flags}"
    training = training_command(
        options, run, base=base, system=row.system, steps=each, epochs=options.steps // each, flags=flags
    )
    return training, audit_command(options, run, run / "audit.html", splits=options.splits)


def run_row(row: StudyRow, seed: int, directory: Path, options: argparse.Namespace, base: Path) -> None:
    """Trains and audits one row with one seed, and writes its result."""
    name = run_name(row, seed)
    run = directory / name
    training, audit = commands_of(row, seed, run, options, base)
    log = directory / f"{name}.log" if options.jobs > 1 else None
    started = time.monotonic()
    start(f"training {name}", training, log)
    trained = time.monotonic()
    start(f"the audit of {name}", audit, log)
    report = read_json(run / "audit.json", missing="python -m evaluation.audit writes it")
    result = {
        "row": row.name,
        "seed": seed,
        "settings": settings(options) | {"base": pair_of(base, options.decoder)},
        "audit": _values(report["audit"]),
        "queries": query_scores(read_layer_rows(run / "audit.layers.jsonl")),
        "history": history(run / "metrics.jsonl"),
        "seconds": {"training": round(trained - started), "scoring": round(time.monotonic() - trained)},
    }
    unfinished = directory / f"{name}.part"
    unfinished.write_text(json.dumps(result) + "\n", encoding="utf-8")
    unfinished.replace(result_path(directory, row, seed))


def _values(found: Any) -> Any:
    """An audit's numbers without their intervals over images, which pages do not show: theirs are over seeds."""
    if isinstance(found, dict):
        return {name: _values(one) for name, one in found.items() if name != "ci95"}
    if isinstance(found, list):
        return [_values(one) for one in found]
    return round(found, DECIMALS) if isinstance(found, float) else found


def settings(options: argparse.Namespace) -> dict[str, str]:
    """What the numbers of a result depend on, beside its row, seed and base."""
    return {name: str(getattr(options, name)) for name in ("batch_size", "limit", "splits", "held_out")}


def history(metrics: Path) -> list[dict]:
    """The policy's numbers over training, one entry for each recorded step; losses alone where there is no policy."""
    kept = ("step", "train/loss", "policy/entropy", "policy/reward", "policy/layers")
    lines = [parse_json(text, str(metrics)) for _, text in read_lines(metrics, missing="train_ds.py writes it")]
    return [{name: line[name] for name in kept if name in line} for line in lines if "train/loss" in line]
