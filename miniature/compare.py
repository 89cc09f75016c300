"""Six systems on the data that make them what they are, and all six on everything: tables by kind of query.

    python -m miniature.compare                        9 rows, three seeds
    python -m miniature.compare --dry_run              what would run, and about how long
    python -m miniature.compare --systems LISA,UGround --diets full --seeds 7

Every row starts from the same base with one budget, and is scored on answers that it writes itself and on given ones
(`miniature/study.py`). PixelLM has its own tokens and decoder.
"""

import argparse
from collections.abc import Sequence

from dataloaders.settings import ALL_FAMILIES
from groundscore.errors import UserError, run_main
from groundscore.flags import PageHelp
from groundscore.writing import write_text
from miniature.programs import chosen_systems
from miniature.study import add_study_arguments, check_study, run_study
from miniature.study_results import Results, StudyRow
from model.systems import SYSTEMS

PUBLISHED, FULL = DIETS = ("published", "full")
# PixelLM has a decoder of its own where all images have one grid; elsewhere its tokens prompt SAM.
PIXELLM_BY_SAM = "--seg_token_num 3"
PIXELLM = """--seg_token_num 3 --image_feature_scale_num 2 --vision_tower_for_mask --separate_mm_projector
    --resize_vision_tower --resize_vision_tower_size 256 --unfreeze image_feature_neck --out_dim 64"""
_NAMED = "--refer_seg_data refclef||refcoco||refcoco+||refcocog"
# Families as the papers name them, and what each paper is about often enough for a short training: at a tenth of the
# samples `[REJ]` is not learned, therefore gRefCOCO is half of what GSVA draws of refer_seg.
EVERYTHING = f"""--dataset {ALL_FAMILIES} --sample_rates 3,12,6,6,4,4,2,4
    --refer_seg_data refclef||refcoco||refcoco+||refcocog||grefcoco||grefcoco||refzom"""
PUBLISHED_DIETS = {
    "LISA": f"--dataset sem_seg||refer_seg||vqa||reason_seg --sample_rates 3,12,4,4 {_NAMED}",
    "READ": f"""--dataset sem_seg||refer_seg||correct_refer_seg||vqa||reason_seg --sample_rates 3,12,6,4,4 {_NAMED}""",
    "PixelLM": f"--dataset sem_seg||refer_seg||vqa||multi_reason_seg --sample_rates 3,12,4,4 {_NAMED}",
    "GSVA": f"--dataset sem_seg||refer_seg||vqa||reason_seg --sample_rates 3,12,4,4 {_NAMED}{'||grefcoco' * 4}",
    "SESAME": f"""--dataset sem_seg||refer_seg||neg_refer_seg||correct_refer_seg||vqa||reason_seg
        --sample_rates 3,12,6,6,4,4 {_NAMED}""",
}
ONE_NETWORK = ("LISA", "GSVA", "SESAME")  # which differ in their data alone: on the same data they are one model
_OPTIONS = "--num_classes_per_sample 5 --use_expand_question_list"


def study_rows(systems: Sequence[str], diets: Sequence[str], pixellm: str = PIXELLM) -> list[StudyRow]:
    """Rows of these systems on these diets.

    UGround's published diet is everything, so that it has one row; so have the systems of `ONE_NETWORK` on everything.
    pixellm: PixelLM's own flags.
    """

    def row(system: str, diet: str, title: str, data: str) -> StudyRow:
        own = pixellm if system == "PixelLM" else ""
        return StudyRow(f"{system}.{diet}", title, system, f"{data} {_OPTIONS} {own}")

    published = [system for system in systems if PUBLISHED in diets and system in PUBLISHED_DIETS]
    on_everything = [system for system in systems if FULL in diets or system not in PUBLISHED_DIETS]
    rows = [row(system, PUBLISHED, f"{system}, as published", PUBLISHED_DIETS[system]) for system in published]
    same = [system for system in on_everything if system in ONE_NETWORK]
    if same:
        rows.append(row(ONE_NETWORK[0], FULL, f"{', '.join(same)}: everything", EVERYTHING))
    others = [system for system in on_everything if system not in same]
    return rows + [row(system, FULL, f"{system}, everything", EVERYTHING) for system in others]


def main(argv: Sequence[str]) -> None:
    """Trains and audits the rows that have no result yet, and writes the page."""
    options = build_parser().parse_args(argv)
    diets = [diet.strip() for diet in options.diets.split(",")]
    unknown = set(diets) - set(DIETS)
    if unknown:
        raise UserError(f"--diets: there is no {', '.join(sorted(unknown))}; choose from {', '.join(DIETS)}")
    seeds = check_study(options, "six_systems.sh")
    pixellm = PIXELLM if (options.base / "llava").is_dir() else PIXELLM_BY_SAM
    rows = study_rows(chosen_systems(options.systems), [diet for diet in DIETS if diet in diets], pixellm)

    def write(results: Results) -> None:
        from miniature.compare_page import page

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
    add_study_arguments(parser, steps=200, seeds="0,1,2", limit=30, runs="runs/six_systems")
    return parser


if __name__ == "__main__":
    run_main(main)
