"""Six systems on the data that make them what they are, and all six on everything: tables by kind of query.

    python -m miniature.compare                        11 rows, three seeds
    python -m miniature.compare --dry_run              what would run, and about how long
    python -m miniature.compare --systems LISA,UGround --diets full --seeds 7

Every row starts from the same base with one budget, and is scored on answers that it writes itself and on given ones
(`miniature/study.py`). PixelLM has its own tokens and decoder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dataloaders.settings import ALL_FAMILIES
from groundscore.errors import UserError, run_main
from groundscore.flags import PageHelp
from groundscore.scoring.tables import markdown_table
from groundscore.writing import write_text
from miniature.programs import chosen_systems
from miniature.study import (
    COLUMNS,
    Results,
    StudyRow,
    add_study_arguments,
    check_study,
    queries_table,
    run_study,
    spread,
)
from model.systems import SYSTEMS

PUBLISHED, FULL = DIETS = ("published", "full")
PIXELLM = """--seg_token_num 3 --image_feature_scale_num 2 --vision_tower_for_mask --separate_mm_projector
    --resize_vision_tower --resize_vision_tower_size 256 --unfreeze image_feature_neck --out_dim 64"""
_NAMED = "--refer_seg_data refclef||refcoco||refcoco+||refcocog"
# Families as the papers name them; a short training needs rates by which each family has its share.
EVERYTHING = f"--dataset {ALL_FAMILIES} --sample_rates 3,12,4,4,4,4,2,4"
PUBLISHED_DIETS = {
    "LISA": f"--dataset sem_seg||refer_seg||vqa||reason_seg --sample_rates 3,12,4,4 {_NAMED}",
    "READ": f"""--dataset sem_seg||refer_seg||correct_refer_seg||vqa||reason_seg --sample_rates 3,12,4,4,4 {_NAMED}""",
    "PixelLM": f"--dataset sem_seg||refer_seg||vqa||multi_reason_seg --sample_rates 3,12,4,4 {_NAMED}",
    "GSVA": f"--dataset sem_seg||refer_seg||vqa||reason_seg --sample_rates 3,12,4,4 {_NAMED}||grefcoco",
    "SESAME": f"""--dataset sem_seg||refer_seg||neg_refer_seg||correct_refer_seg||vqa||reason_seg
        --sample_rates 3,12,4,4,4,4 {_NAMED}""",
}
_OPTIONS = "--num_classes_per_sample 5 --use_expand_question_list"
SHOWN_LOSSES = 5


def study_rows(systems: Sequence[str], diets: Sequence[str]) -> list[StudyRow]:
    """Rows of these systems on these diets; UGround's published one is everything, so that it has one row."""
    rows = []
    for diet in diets:
        for system in systems:
            own = PUBLISHED_DIETS.get(system) if diet == PUBLISHED else EVERYTHING
            if own is None and FULL in diets:
                continue
            flags = f"{own or EVERYTHING} {_OPTIONS} {PIXELLM if system == 'PixelLM' else ''}"
            if own is None:
                diet_of_row, title = FULL, f"{system}, everything"
            else:
                diet_of_row, title = diet, f"{system}, {'everything' if diet == FULL else 'as published'}"
            rows.append(StudyRow(f"{system}.{diet_of_row}", title, system, flags))
    return rows


def main(argv: Sequence[str]) -> None:
    """Trains and audits the rows that have no result yet, and writes the page."""
    options = build_parser().parse_args(argv)
    diets = [diet.strip() for diet in options.diets.split(",")]
    unknown = set(diets) - set(DIETS)
    if unknown:
        raise UserError(f"--diets: there is no {', '.join(sorted(unknown))}; choose from {', '.join(DIETS)}")
    seeds = check_study(options, "six_systems.sh")
    rows = study_rows(chosen_systems(options.systems), [diet for diet in DIETS if diet in diets])

    def write(results: Results) -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, page(results, rows, options))

    run_study("compare", rows, seeds, options, {"": options.base}, write)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `python -m miniature.compare`."""
    parser = argparse.ArgumentParser(prog="python -m miniature.compare", description=__doc__, formatter_class=PageHelp)
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help="systems to train, joined by commas (default: all)"
    )
    parser.add_argument("--diets", default=",".join(DIETS), help="published, full, or both joined by a comma (both)")
    add_study_arguments(parser, steps=400, seeds="0,1,2", limit=40, runs="runs/six_systems")
    parser.add_argument("--out", type=Path, default=Path("docs/six_systems.md"), help="the page to write")
    return parser


def page(results: Results, rows: Sequence[StudyRow], options: argparse.Namespace) -> str:
    """The tables with what they were made of."""
    seeds = sorted({seed for runs in results.values() for seed in runs})
    missing = [row.title for row in rows if row.name not in results]
    return f"""# Six systems, one budget

Each row is trained for {options.steps} steps of {options.batch_size} images on the miniature, from one base without a
head start for any, with LoRA and the same flags but for its data: "as published" are the families that the system's
paper trains on, "everything" all eight families (UGround's own diet). Scored on the first {options.limit} images of
each split; means over seeds ({", ".join(map(str, seeds))}) ± standard deviation. PixelLM has 3 × 2 tokens and its own
decoder on CLIP features of 256 pixels, the others SAM.
{f"Not trained yet: {'; '.join(missing)}." if missing else ""}
{COLUMNS}

## Answers that the system writes itself

{queries_table(results, rows, "generated")}

## Given answers

{queries_table(results, rows, "given")}

## Training

"Loss" is the mean of the first and of the last {SHOWN_LOSSES} recorded ones; seconds on {options.processes} processes
(device: {options.device}).

{_training_table(results, rows)}

PixelLM decodes 16 × 16 and 32 × 32 cells where SAM's decoder has 8 × 8, which makes its step about three times LISA's,
at the same width (`--out_dim 64`; at the 7B's 256, its default without a SAM, ten times).

LISA, GSVA and SESAME are one network; what differs is their data and how they answer what is not there (GSVA writes
`[REJ]`, SESAME denies and corrects in words). `./scripts/miniature/six_systems.sh` makes this page again, and
`--seeds 7` adds a seed.
"""


def _training_table(results: Results, rows: Sequence[StudyRow]) -> str:
    table = [["row", "loss", "seconds"]]
    for row in rows:
        runs = list(results.get(row.name, {}).values())
        if runs:
            losses = [[line["train/loss"] for line in run["history"]] for run in runs]
            first, last = (
                spread(sum(part) / len(part) for part in parts)
                for parts in ([one[:SHOWN_LOSSES] for one in losses], [one[-SHOWN_LOSSES:] for one in losses])
            )
            seconds = spread(run["seconds"]["training"] for run in runs)
            table.append([row.title, f"{first.mean:.2f} → {last.mean:.2f}", f"{seconds.mean:.0f}"])
    return markdown_table(table)


if __name__ == "__main__":
    run_main(main)
