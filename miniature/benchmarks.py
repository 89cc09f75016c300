"""Score the six miniature systems on all benchmarks, and put everything in one table.

    python -m miniature.benchmarks --limit 40

The checkpoints are those that `miniature.compare` trained on the published data of each system, the first seed. A
second call resumes where the first stopped.
"""

import argparse
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.flags import PageHelp
from groundscore.reading import read_json
from groundscore.scoring import percent
from groundscore.scoring.metrics import kind_of
from groundscore.scoring.tables import markdown_table
from groundscore.splits import BENCHMARKS
from miniature.compare import DIETS
from miniature.programs import chosen_systems, scoring_command
from model.systems import SYSTEMS

# What the page shows of each kind of split: the scores that papers compare, fewer than `table_columns` has.
SHOWN = {
    "plain": ("gIoU", "cIoU"),
    "gres": ("gIoU", "cIoU", "N_acc", "T_acc"),
    "false_premise": ("See", "Segment"),
    "robust": ("rIoU", "mRR", "mIoU", "oIoU"),
    "muse": ("gIoU", "cIoU"),
}


def main(argv: Sequence[str]) -> None:
    """Scores the systems that have no report yet, and writes the page."""
    parser = argparse.ArgumentParser(
        prog="python -m miniature.benchmarks", description=__doc__, formatter_class=PageHelp
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/six_systems"), help="trained runs (runs/six_systems)")
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help="systems to score, joined by commas (default: all)"
    )
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset/miniature_all"), help="data with all sets")
    parser.add_argument("--splits", default="||".join(BENCHMARKS), help="benchmarks joined by || (all of the menu)")
    parser.add_argument("--answer", choices=("given", "generated", "both"), default="both", help="protocols (both)")
    parser.add_argument("--limit", type=int, default=40, help="images of each split (40)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="the table to write (default: benchmarks.md in --runs)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    options.out = options.out or options.runs / "benchmarks.md"
    if not options.dataset_dir.is_dir():
        raise UserError(
            f"--dataset_dir {options.dataset_dir} does not exist; scripts/miniature/all_benchmarks.sh makes it"
        )
    runs = {name: find_run(options.runs, name) for name in chosen_systems(options.systems)}
    missing = [name for name, run in runs.items() if run is None]
    for name in missing:
        print(f"[benchmarks] {name}: no run below {options.runs}; scripts/miniature/six_systems.sh trains it")
    if len(missing) == len(runs):
        raise UserError("there is nothing to score")
    reports = {name: score(name, run, options) for name, run in runs.items() if run is not None}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(reports, runs, options), encoding="utf-8")
    print(f"[benchmarks] {options.out}")


def find_run(runs: Path, system: str) -> Path | None:
    """The longest training of a system on its published data, its first seed; on everything where there is none."""
    for diet in DIETS:
        pairs = ((path, re.fullmatch(rf"{system}\.{diet}\.seed(\d+)", path.name)) for path in runs.glob("*_steps/*"))
        found = {path: int(seed.group(1)) for path, seed in pairs if seed and path.is_dir()}
        if found:
            return min(found, key=lambda path: (-int(path.parent.name.removesuffix("_steps")), found[path]))
    return None


def score(system: str, run: Path, options: argparse.Namespace) -> dict:
    """The report of one system; made by `eval.py` unless it exists."""
    report = run.parent / f"{system}.benchmarks.{options.answer}.first{options.limit}.json"
    if not report.exists():
        print(f"\n[benchmarks] {system}", flush=True)
        command = scoring_command(options, run, report, splits=options.splits, answer=options.answer)
        code = subprocess.run(command, check=False).returncode
        if not report.exists():  # else a split could not be scored, and the report says why
            raise UserError(f"scoring {system} ended with code {code}; what it printed is above")
    content = read_json(report, missing="eval.py writes it")
    made = {"--splits": "||".join(content["splits"]), "--dataset_dir": content["dataset_dir"]}
    asked = {"--splits": options.splits, "--dataset_dir": str(options.dataset_dir)}
    for flag, value in made.items():
        if value != asked[flag]:
            raise UserError(f"{report} was made with {flag} {value}; remove it to score with other settings")
    return content


def page(reports: dict[str, dict], runs: dict[str, Path | None], options: argparse.Namespace) -> str:
    """A table per protocol: a line per benchmark and score, a column per system."""
    answers = ("given", "generated") if options.answer == "both" else (options.answer,)
    parts = [
        f"""# All benchmarks, six systems, in miniature

The systems of [six_systems.md](six_systems.md) ({_budgets(runs)}), scored on the first {options.limit} images of each
split of the generated data. Each was trained on what its paper trains on (UGround on everything), so a set of another
kind shows what carries over. LISA, GSVA and SESAME are one network that differs in its data. Numbers are in percent;
the reports of the runs hold a 95 % interval beside each. [evaluation.md](evaluation.md) defines the scores;
`./scripts/miniature/all_benchmarks.sh` makes this page again.
"""
    ]
    for answer in answers:
        parts.append(f"## `--answer {answer}`\n\n{table(reports, answer, nested=options.answer == 'both')}\n")
    return "\n".join(parts)


def _budgets(runs: dict[str, Path | None]) -> str:
    steps = sorted({run.parent.name.replace("_", " ") for run in runs.values() if run is not None})
    return " and ".join(steps)


def table(reports: dict[str, dict], answer: str, *, nested: bool) -> str:
    """One protocol as aligned Markdown; below the table, the reason for a split that could not be scored."""
    columns = {
        system: {split: scores[answer] if nested else scores for split, scores in report["splits"].items()}
        for system, report in reports.items()
    }
    rows = [["benchmark", "score", *columns]]
    notes = []
    for split in next(iter(columns.values())):
        entries = {system: splits[split] for system, splits in columns.items()}
        for position, name in enumerate(SHOWN[kind_of(split)]):
            cells = [_cell(one, name) for one in entries.values()]
            rows.append([split if position == 0 else "", name, *cells])
        notes += [f"- {system} on {split}: {one['error']}" for system, one in entries.items() if "error" in one]
    return "\n".join([markdown_table(rows), *(["", *notes] if notes else [])])


def _cell(scores: dict, name: str) -> str:
    if "error" in scores:
        return "see below"
    value = scores[name]
    return percent(value)


if __name__ == "__main__":
    run_main(main)
