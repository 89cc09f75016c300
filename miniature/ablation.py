"""What the layer policy brings: rows with and without it, trained alike, scored on answers they write themselves.

    python -m miniature.ablation                       all rows, three seeds; about three hours on two idle cores
    python -m miniature.ablation --quick               four rows, one seed, a few minutes; not conclusive
    python -m miniature.ablation --rows mode1,mode3_expected --seeds 7

Every run leaves a result in `--runs`; a second call skips the runs whose results exist. The page is rewritten after
every run from all results of that directory.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.reading import parse_json, read_json, read_lines
from miniature.ablation_results import ANALYSED, QUICK, REFER_SETS, ROWS, SPLITS, Row, read_results
from miniature.programs import scoring_command, start, training_command

STEPS, QUICK_STEPS = 200, 30
LIMIT, QUICK_LIMIT = 40, 10


def main(argv: Sequence[str]) -> None:
    """Trains and scores the rows that have no result yet, and writes the page."""
    options = build_parser().parse_args(argv)
    if options.steps is None:
        options.steps = QUICK_STEPS if options.quick else STEPS
    if options.limit is None:
        options.limit = QUICK_LIMIT if options.quick else LIMIT
    rows, seeds = _plan(options)
    directory = options.runs / f"{options.steps}_steps"
    runs = [(row, seed) for seed in seeds for row in rows]
    todo = [(row, seed) for row, seed in runs if not result_path(directory, row, seed).exists()]
    print(f"[ablation] {len(runs)} runs, {len(runs) - len(todo)} of them already done, in {directory}")
    if options.page_only:
        todo = []
    started = time.monotonic()
    for number, (row, seed) in enumerate(todo, start=1):
        print(f"\n[ablation] {number} of {len(todo)}: {row.title}, seed {seed}", flush=True)
        run_one(row, seed, directory, options)
        write_page(directory, options)
        left = (time.monotonic() - started) / number * (len(todo) - number)
        print(f"[ablation] about {left / 60:.0f} minutes left", flush=True)
    if not todo:
        write_page(directory, options)
    print(f"[ablation] {options.out}")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `python -m miniature.ablation`."""
    parser = argparse.ArgumentParser(
        prog="python -m miniature.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}; one seed, {QUICK_STEPS} steps")
    parser.add_argument("--rows", help=f"rows to run, joined by commas (default: all): {names}")
    parser.add_argument("--seeds", help="joined by commas (0,1,2; with --quick 0)")
    parser.add_argument("--steps", type=int, help=f"optimizer steps of each run ({STEPS})")
    parser.add_argument("--limit", type=int, help=f"images of each split ({LIMIT})")
    parser.add_argument("--batch_size", type=int, default=16, help="images per step, over all processes (16)")
    parser.add_argument("--processes", type=int, default=1, help="training processes (1)")
    parser.add_argument("--base", type=Path, default=Path("miniature/weights"), help="base models (miniature/weights)")
    parser.add_argument(
        "--dataset_dir", type=Path, default=Path("dataset/miniature"), help="root of the miniature's data set"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="where runs and results are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/ablation.md"), help="the page; plots go beside it")
    parser.add_argument("--page_only", action="store_true", help="write the page from existing results, train nothing")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _plan(options: argparse.Namespace) -> tuple[list[Row], list[int]]:
    names = options.rows.split(",") if options.rows else QUICK if options.quick else [row.name for row in ROWS]
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        raise UserError(f"--rows: there is no {', '.join(sorted(unknown))}; --help lists them")
    try:
        seeds = [int(seed) for seed in (options.seeds or ("0" if options.quick else "0,1,2")).split(",")]
    except ValueError:
        raise UserError(f"--seeds {options.seeds}: expected numbers joined by commas") from None
    for flag, path in (("--base", options.base / "llava"), ("--dataset_dir", options.dataset_dir)):
        if not path.is_dir():
            raise UserError(f"{flag}: {path} does not exist; scripts/miniature/ablation.sh --help says how to make it")
    if options.steps < 1 or options.limit < 1 or options.batch_size % options.processes:
        raise UserError("--steps and --limit must be above 0, and --batch_size a multiple of --processes")
    return [row for row in ROWS if row.name in names], seeds


def result_path(directory: Path, row: Row, seed: int) -> Path:
    """The file with the result of a row and seed."""
    return directory / f"{row.name}.seed{seed}.json"


def run_one(row: Row, seed: int, directory: Path, options: argparse.Namespace) -> None:
    """Train and score one row with one seed, and write its result."""
    name = f"{row.name}.seed{seed}"
    run, report = directory / name, directory / name / "report.json"
    flags = f"{REFER_SETS} --seed {seed} {row.flags}"
    started = time.monotonic()
    training = training_command(options, run, system=row.system, steps=options.steps, epochs=1, flags=flags)
    start(f"training {name}", training)
    trained = time.monotonic()
    start(f"scoring {name}", scoring_command(options, run, report, splits="||".join(SPLITS.values())))
    splits = read_json(report, missing="eval.py writes it")["splits"]
    result = {
        "row": row.name,
        "seed": seed,
        "steps": options.steps,
        "limit": options.limit,
        "scores": {kind: splits[split] for kind, split in SPLITS.items()},
        "history": history(run / "metrics.jsonl"),
        "layers": layers_of(run, options) if row.system == "UGround" else None,
        "seconds": {"training": round(trained - started), "scoring": round(time.monotonic() - trained)},
    }
    unfinished = directory / f"{name}.part"
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(result_path(directory, row, seed))


def history(metrics: Path) -> list[dict]:
    """The policy's numbers over training, one entry for each recorded step; losses alone where there is no policy."""
    kept = ("step", "train/loss", "policy/entropy", "policy/reward", "policy/layers")
    lines = [parse_json(text, str(metrics)) for _, text in read_lines(metrics, missing="train_ds.py writes it")]
    return [{name: line[name] for name in kept if name in line} for line in lines if "train/loss" in line]


def layers_of(run: Path, options: argparse.Namespace) -> dict[str, dict]:
    """For each analysed split: mean mask IoU with every layer, with the policy's and with the best for each target."""
    from checkpoints.runs.restoring import load_trained
    from evaluation.layer_analysis import analyse_split
    from groundscore.splits import evaluation_set
    from utils.distributed import choose_device

    model, processor, _ = load_trained(run)
    model.to(choose_device(options.device, 0))
    found = {}
    for kind in ANALYSED:
        items = evaluation_set(SPLITS[kind], options.dataset_dir)
        split = analyse_split(model, processor, items, batch_size=16, limit=options.limit)
        targets, layers = split.iou.shape
        found[kind] = {
            "targets": targets,
            "iou": split.iou.mean(dim=0).tolist(),
            "greedy": split.mean_iou(split.greedy),
            "oracle": split.mean_iou(split.oracle),
            "probabilities": split.probabilities.mean(dim=0).tolist(),
            "chosen": split.greedy.bincount(minlength=layers).tolist(),
            "best": split.oracle.bincount(minlength=layers).tolist(),
        }
    return found


def write_page(directory: Path, options: argparse.Namespace) -> None:
    """The page and its plots from all results in `directory`."""
    from miniature.ablation_page import draw, page

    results = read_results(directory)
    if not results:
        raise UserError(f"{directory} holds no result; run the ablation without --page_only first")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    images = draw(results, options.out.with_suffix(""))
    options.out.write_text(page(results, images, options.out.parent), encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
