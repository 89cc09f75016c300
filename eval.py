"""Score a checkpoint on the benchmarks of the field, and draw what it answers.

    python eval.py --version runs/quickstart/hf --dataset_dir dataset --val_dataset "ReasonSeg|val||refcoco|unc|val"
    python eval.py --predictions FILE.jsonl --dataset_dir dataset --val_dataset "ReasonSeg|val"
    python eval.py --compare A.json B.json [C.json …]

Without `--val_dataset` a terminal shows a menu. Several processes share the images: start it with
`torchrun --nproc_per_node N eval.py …`. docs/evaluation.md defines protocols and scores.
"""

from collections.abc import Sequence
from pathlib import Path

from groundscore.annotations.bad_entries import DEFAULT_SHARE
from groundscore.errors import UserError, run_main
from groundscore.flags import add_counting_flags, add_reading_flags, count, positive
from inference.model_flags import add_model_flags
from utils.flags import FlagParser
from utils.plugins import import_plugins


def build_parser() -> FlagParser:
    """Returns the parser of all flags."""
    parser = FlagParser(
        prog="eval.py",
        description="Score a checkpoint, or saved predictions, on the benchmarks; compare two reports.",
    )
    add_model_flags(parser, version_required=False)
    group = parser.add_argument_group("benchmarks")
    group.add_argument("--dataset_dir", default="./dataset", metavar="DIR", help="root of all data sets")
    group.add_argument(
        "--val_dataset",
        metavar="SPLITS",
        help="splits joined by ||, such as ReasonSeg|val||refcoco|unc|testA (default: a menu on a terminal, "
        "ReasonSeg|val elsewhere)",
    )
    group.add_argument("--limit", type=positive, metavar="N", help="score the first N images of each split only")
    group.add_argument(
        "--skip_bad_samples",
        type=float,
        default=DEFAULT_SHARE,
        metavar="R",
        help="share of entries without a usable image or mask to leave out and list beside the report; 0 stops at the "
        "first",
    )
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--answer",
        choices=("given", "generated", "both"),
        default="generated",
        help="given: the answer with its targets is forced on the model, as for published numbers; generated: the "
        "model writes it",
    )
    group.add_argument(
        "--expressions",
        choices=("together", "single"),
        help="one question about all expressions of an image, or one for each (default: together for given answers, "
        "single for generated ones)",
    )
    group.add_argument(
        "--max_new_tokens", type=positive, default=128, metavar="N", help="maximum length of an answer in tokens"
    )
    add_counting_flags(group)
    group.add_argument(
        "--selected_on",
        metavar="SPLITS",
        help="splits joined by || by whose scores this model or a setting was chosen: recorded, and shown in the table "
        "(default: what a run records of its best checkpoint)",
    )
    group = parser.add_argument_group("speed")
    group.add_argument("--val_batch_size", type=positive, default=8, metavar="N", help="images per batch")
    group.add_argument(
        "--val_expressions",
        type=positive,
        default=64,
        metavar="N",
        help="expressions at a time; an image with more is split",
    )
    group.add_argument("--workers", type=count, metavar="N", help="processes that load images (GPU: 4, CPU: 0)")
    group = parser.add_argument_group("results")
    group.add_argument("--log_base_dir", type=Path, default="./runs", metavar="DIR", help="directory of all runs")
    group.add_argument("--exp_name", metavar="RUN", help="run that the report belongs to (default: from --version)")
    group.add_argument("--name", metavar="NAME", help="the report is RUN/eval/NAME.json (default: from the splits)")
    group.add_argument("--output", type=Path, metavar="FILE", help="write the report to this file instead")
    group.add_argument(
        "--bootstrap", type=count, default=1000, metavar="N", help="resamples for the intervals; 0: none"
    )
    group.add_argument("--save_predictions", action="store_true", help="also write every mask, as COCO RLE (.jsonl)")
    group.add_argument("--gallery", action="store_true", help="also draw best, worst and random cases (HTML)")
    group.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet (PNG) of answered samples")
    group.add_argument(
        "--sheet_samples", type=positive, default=8, metavar="N", help="samples on the contact sheet, from all splits"
    )
    group.add_argument(
        "--vis", type=count, default=0, metavar="N", help="images of N answered samples per split to draw"
    )
    group.add_argument(
        "--vis_save_path", type=Path, default="./vis_output", metavar="DIR", help="directory for these images"
    )
    group = parser.add_argument_group("without a model")
    group.add_argument("--predictions", type=Path, metavar="FILE", help="score these saved predictions, of any form")
    group.add_argument("--format", metavar="NAME", help="form of the predictions (default: what they look like)")
    add_reading_flags(group)
    group.add_argument(
        "--compare", type=Path, nargs="+", metavar="REPORT", help="compare two or more reports, image by image"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Does what the flags say; returns the exit status."""
    import_plugins(argv)
    flags = build_parser().parse(argv)
    if flags.compare:
        from groundscore.scoring.comparison import compare_reports

        print(compare_reports(*flags.compare))
        return 0
    if not flags.version and not flags.predictions:
        raise UserError("--version is missing: the checkpoint to score (or --predictions, or --compare)")
    if not Path(flags.dataset_dir).is_dir():
        raise UserError(f"--dataset_dir {flags.dataset_dir}: no such directory")
    if flags.predictions:
        from evaluation.saved import evaluate_predictions as score
    else:
        from evaluation.commands import evaluate_checkpoint as score
    return score(flags, argv)


if __name__ == "__main__":
    run_main(main)
