"""Score a checkpoint on the benchmarks of the field, and draw what it answers.

    python eval.py --version miniature/unified --dataset_dir dataset/miniature --val_dataset "ReasonSeg|val"
    python eval.py --predictions FILE.jsonl --dataset_dir dataset --val_dataset "ReasonSeg|val"
    python eval.py --compare A.json B.json [C.json …]

Without `--val_dataset` a terminal shows a menu. Several processes share the images: start it with
`torchrun --nproc_per_node N eval.py …`. docs/evaluation.md defines protocols and scores.
"""

from collections.abc import Sequence
from pathlib import Path

from evaluation.flags import add_protocol_flags, add_report_flags, add_speed_flags, add_split_flags
from groundscore.data_root import check_data_root
from groundscore.errors import UserError, run_main
from groundscore.flags import add_counting_flags, add_reading_flags, count, positive
from inference.model_flags import add_model_flags, check_version
from utils.flags import FlagParser
from utils.plugins import import_plugins


def build_parser() -> FlagParser:
    """Returns the parser of all flags."""
    parser = FlagParser(
        prog="eval.py",
        description="Score a checkpoint, or saved predictions, on the benchmarks; compare two reports.",
    )
    add_model_flags(parser, version_required=False)
    add_split_flags(parser)
    add_counting_flags(add_protocol_flags(parser, answer="generated"))
    add_speed_flags(parser)
    group = parser.add_argument_group("results")
    add_report_flags(group, ".json")
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
        from groundscore.terminal import fitted, terminal_width

        print(fitted(compare_reports(*flags.compare), terminal_width()))
        return 0
    if not flags.version and not flags.predictions:
        raise UserError("--version is missing: the checkpoint to score (or --predictions, or --compare)")
    check_data_root(flags.dataset_dir, "--dataset_dir")
    if flags.predictions:
        from evaluation.saved import evaluate_predictions as score
    else:
        check_version(flags.version)
        from evaluation.commands import evaluate_checkpoint as score
    return score(flags, argv)


if __name__ == "__main__":
    run_main(main)
