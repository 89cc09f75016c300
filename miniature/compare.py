"""Train the six systems on the miniature with one budget, and put their scores in one table.

    python -m miniature.compare --steps 300

Each system trains from the same base on the same data with the same flags (PixelLM with its own tokens and decoder),
and is scored on the answers that it writes itself. A second call resumes where the first stopped.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.reading import parse_json, read_json, read_lines
from groundscore.scoring.tables import markdown_table
from miniature.programs import chosen_systems, scoring_command, start, training_command
from model.systems import SYSTEMS

STEPS_BETWEEN_CHECKPOINTS = 50
PIXELLM = """--seg_token_num 3 --image_feature_scale_num 2 --vision_tower_for_mask --separate_mm_projector
    --resize_vision_tower --resize_vision_tower_size 256 --unfreeze image_feature_neck"""
REFER_SETS = "--refer_seg_data refcoco"
SHOWN_LOSSES = 5


def main(argv: Sequence[str]) -> None:
    """Trains and scores the systems that have no report yet, and writes the page."""
    parser = argparse.ArgumentParser(
        prog="python -m miniature.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of each system (300)")
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help="systems to train, joined by commas (default: all)"
    )
    parser.add_argument("--base", type=Path, default=Path("miniature/weights"), help="base models (miniature/weights)")
    parser.add_argument(
        "--dataset_dir", type=Path, default=Path("dataset/miniature"), help="root of the miniature's data set"
    )
    parser.add_argument("--splits", default="ReasonSeg|val||refcoco|unc|val", help="splits to score on, joined by ||")
    parser.add_argument("--limit", type=int, default=60, help="images of each split (60)")
    parser.add_argument("--batch_size", type=int, default=16, help="images per step, over all processes (16)")
    parser.add_argument("--processes", type=int, default=1, help="training processes (1)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/six_systems"), help="where runs and reports are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/six_systems.md"), help="the table to write")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    systems = chosen_systems(options.systems)
    _check(options)

    directory = options.runs / f"{options.steps}_steps"
    results = {}
    for system in systems:
        report = directory / f"{system}.json"
        run = directory / system
        if not _is_complete(report, options):
            seconds = train(system, run, options)
            print(f"\n[compare] scoring {system}", flush=True)
            start(f"scoring {system}", scoring_command(options, run, report, splits=options.splits))
            _add_training(report, run, seconds, options)
        results[system] = read_json(report, missing="eval.py writes it")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(results, options), encoding="utf-8")
    print(table(results))
    print(f"[compare] {options.out}")


def _check(options: argparse.Namespace) -> None:
    for flag, path in (("--base", options.base / "llava"), ("--dataset_dir", options.dataset_dir)):
        if not path.is_dir():
            raise UserError(
                f"{flag}: {path} does not exist; scripts/miniature/six_systems.sh --help says how to make it"
            )
    if options.steps < 1 or options.batch_size % options.processes:
        raise UserError("--steps must be above 0, and --batch_size a multiple of --processes")


def train(system: str, run: Path, options: argparse.Namespace) -> float:
    """Trains one system, or resumes its run; returns the seconds of this call."""
    started = time.monotonic()
    each = STEPS_BETWEEN_CHECKPOINTS if options.steps % STEPS_BETWEEN_CHECKPOINTS == 0 else options.steps
    flags = f"{REFER_SETS} {PIXELLM if system == 'PixelLM' else ''}"
    command = training_command(options, run, system=system, steps=each, epochs=options.steps // each, flags=flags)
    print(f"\n[compare] training {system}", flush=True)
    start(f"training {system}", command)
    return time.monotonic() - started


def _is_complete(report: Path, options: argparse.Namespace) -> bool:
    """Whether a report exists and covers training. Raises `UserError` if it was made with other settings."""
    if not report.exists():
        return False
    training = read_json(report, missing="eval.py writes it").get("training")
    if training is not None and training.get("settings") != settings(options):
        made = training.get("settings", "those of an older version")
        raise UserError(f"{report} was made with other settings ({made}); remove it, or name another --runs")
    return training is not None


def settings(options: argparse.Namespace) -> dict:
    """What the numbers of a report depend on."""
    return {name: str(getattr(options, name)) for name in ("batch_size", "limit", "splits", "dataset_dir", "base")}


def _add_training(report: Path, run: Path, seconds: float, options: argparse.Namespace) -> None:
    """Put the loss at both ends of training, and the seconds of it, into a report."""
    metrics = run / "metrics.jsonl"
    lines = [parse_json(text, str(metrics)) for _, text in read_lines(metrics, missing="train_ds.py writes it")]
    losses = [values["train/loss"] for values in lines if "train/loss" in values]
    ends = [sum(part) / len(part) for part in (losses[:SHOWN_LOSSES], losses[-SHOWN_LOSSES:])]
    content = read_json(report, missing="eval.py writes it")
    content["training"] = {"first_loss": ends[0], "last_loss": ends[1], "seconds": round(seconds)}
    content["training"]["settings"] = settings(options)
    report.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def table(results: dict[str, dict]) -> str:
    """One line per system, aligned Markdown."""
    splits = list(next(iter(results.values()))["splits"])
    rows = [["system", *(f"{split} gIoU / cIoU" for split in splits), "without [SEG]", "loss", "s"]]
    for system, result in results.items():
        scores = [result["splits"][split] for split in splits]
        silent, asked = (sum(one[name] for one in scores) for name in ("silent", "expressions"))
        training = result["training"]
        rows.append(
            [
                system,
                *(f"{_shown(one['gIoU'])} / {_shown(one['cIoU'])}" for one in scores),
                f"{silent} of {asked}",
                f"{training['first_loss']:.2f} → {training['last_loss']:.2f}",
                str(training["seconds"]),
            ]
        )
    return markdown_table(rows)


def _shown(number: float | None) -> str:
    return "none" if number is None else f"{number:.3f}"


def page(results: dict[str, dict], options: argparse.Namespace) -> str:
    """The table with what it was made of."""
    return f"""# Six systems, one budget

Each trained for {options.steps} steps of {options.batch_size} images on the miniature, from the same base, with LoRA
and the same flags; scored on the answers that it wrote itself, on the first {options.limit} images of each split.
PixelLM has 3 × 2 tokens and its own decoder on CLIP features of 256 pixels, the others SAM.
"Without [SEG]" counts answers that name no target, "loss" is the mean of the first and of the last {SHOWN_LOSSES}
recorded ones, "s" the seconds of training (device: {options.device}).

{table(results)}

The miniature is small and the budget short: the table shows that every system trains, writes `[SEG]` and finds
targets. Two caveats: LISA, GSVA and SESAME have the same network and differ in their data (GSVA answers `[REJ]`, SESAME
denies and corrects in words); here every expression has a target, so their rows are equal to the last digit, as
expected. And the base was pretrained with similarity maps as mask prompts, which only UGround uses: a head start.
`./scripts/miniature/six_systems.sh` makes the table again.
"""


if __name__ == "__main__":
    run_main(main)
