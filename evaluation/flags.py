"""The flags that `eval.py` and `python -m evaluation.audit` share: splits, protocol, speed, and where results go."""

import argparse
from pathlib import Path

from groundscore.annotations.bad_entries import DEFAULT_SHARE
from groundscore.flags import count, positive
from model.settings import LONGEST_ANSWER


def add_split_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what is scored."""
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


def add_protocol_flags(parser: argparse.ArgumentParser, *, answer: str) -> argparse._ArgumentGroup:
    """Adds the flags that say how a model is asked; answer: the default. Returns their group."""
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--answer",
        choices=("given", "generated", "both"),
        default=answer,
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
        "--max_new_tokens",
        type=positive,
        default=LONGEST_ANSWER,
        metavar="N",
        help="maximum length of an answer in tokens",
    )
    group.add_argument(
        "--selected_on",
        metavar="SPLITS",
        help="splits joined by || by whose scores this model or a setting was chosen: recorded, and shown in the table "
        "(default: what a run or a merged model records of its best checkpoint)",
    )
    return group


def add_speed_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that change no number."""
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


def add_report_flags(group: argparse._ArgumentGroup, suffix: str) -> None:
    """Adds the flags that say where results go; suffix: of the file that `--output` names."""
    group.add_argument("--log_base_dir", type=Path, default="./runs", metavar="DIR", help="directory of all runs")
    group.add_argument("--exp_name", metavar="RUN", help="run that the report belongs to (default: from --version)")
    name = f"the report is RUN/eval/NAME{suffix} (default: from the splits)"
    group.add_argument("--name", metavar="NAME", help=name)
    group.add_argument("--output", type=Path, metavar="FILE", help="write the report to this file instead")
    group.add_argument(
        "--bootstrap", type=count, default=1000, metavar="N", help="resamples for the intervals; 0: none"
    )
