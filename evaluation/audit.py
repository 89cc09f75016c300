"""One page about what a checkpoint's choice of layer is worth, for any checkpoint: `python -m evaluation.audit --help`.

    python -m evaluation.audit --version runs/quickstart/hf --dataset_dir dataset --val_dataset "ReasonSeg|val"

Answers are read (given) or written (generated) once and images are encoded once; every layer's mask is then decoded,
and the masks of redraws of the last layer's state, the null of the best layer (`groundscore/scoring/layers.py`). The
counts of each expression are saved beside the page, and all its numbers follow from them. An interrupted audit resumes;
`torchrun` distributes the images, as for `eval.py`.
"""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence

from evaluation.flags import add_protocol_flags, add_report_flags, add_speed_flags, add_split_flags
from groundscore.data_root import check_data_root
from groundscore.errors import UserError, run_main
from groundscore.flags import count
from groundscore.scoring import UNITS
from inference.model_flags import add_model_flags
from utils.flags import FlagParser
from utils.plugins import import_plugins

PROGRAM = ("python", "-m", "evaluation.audit")
RATES = "0.1,0.2,0.4"


def build_parser() -> FlagParser:
    """Returns the parser of all flags."""
    parser = FlagParser(prog=" ".join(PROGRAM), description="Audit what a checkpoint's choice of layer is worth.")
    add_model_flags(parser)
    add_split_flags(parser)
    add_protocol_flags(parser, answer="both")
    add_speed_flags(parser)
    group = parser.add_argument_group("luck")
    group.add_argument(
        "--redraw_rates",
        type=dropout_rates,
        default=RATES,
        metavar="R,R",
        help="rates of dropout on the last layer's [SEG] state, whose redraws say what the best of several masks gains "
        "by luck; of several rates the one that gains most counts; none: no redraws",
    )
    group.add_argument("--seed", type=count, default=0, metavar="N", help="of the redraws and of the intervals")
    group = parser.add_argument_group("results")
    add_report_flags(group, ".html")
    group.add_argument("--cases", type=count, default=4, metavar="N", help="expressions of each split that are drawn")
    return parser


def dropout_rates(text: str) -> tuple[float, ...]:
    """Rates between 0 and 1, joined by commas; nothing for "none"."""
    try:
        rates = () if text == "none" else tuple(dict.fromkeys(float(rate) for rate in text.split(",")))
    except ValueError:
        rates = (-1.0,)
    if not all(0 < rate < 1 for rate in rates):
        raise ArgumentTypeError(f"{text!r}: expected rates between 0 and 1, joined by commas, or none")
    return rates


def main(argv: Sequence[str]) -> int:
    """Makes the audit; returns 1 where a split could not be scored, else 0."""
    import_plugins(argv)
    flags = build_parser().parse(argv)
    if flags.layer is not None:
        raise UserError("--layer: an audit has every layer; leave it out")
    check_data_root(flags.dataset_dir, "--dataset_dir")
    if flags.output and flags.output.suffix != ".html":
        raise UserError(f"--output {flags.output}: name a .html file; its numbers and rows get the same name")
    from evaluation.auditing import audit
    from evaluation.commands import ask_for_benchmarks, join_processes
    from evaluation.records import lock_report
    from evaluation.report_files import Task, report_name
    from groundscore.splits import split_names
    from utils.distributed import adopt_slurm

    adopt_slurm()
    flags.val_dataset = flags.val_dataset or ask_for_benchmarks()
    not_asked = {"predictions": None, "sheet": None, "gallery": False, "gres_reference": False, "unit": UNITS[0]}
    flags = Namespace(**{**vars(flags), **not_asked})
    flags.name = flags.name or f"audit.{report_name(flags, split_names(flags.val_dataset))}"
    flags.output = flags.output and flags.output.with_suffix(".json")
    task = Task.of(flags, argv, PROGRAM)
    world = join_processes(flags)
    with lock_report(task.files.report, world):
        return audit(task, world)


if __name__ == "__main__":
    run_main(main)
