"""What the layer policy buys: bases × modes × estimators × gates, trained alike, scored and audited seed by seed.

    python -m miniature.ablation --bases none=BASE,all=BASE,last=BASE     12 rows on three bases, five seeds
    python -m miniature.ablation --dry_run                                what would run, and about how long
    python -m miniature.ablation --quick                                  three rows, one seed; not conclusive
    python -m miniature.ablation --rows mode1,mode3_expected --seeds 7

A base is what `python -m miniature.base` writes. It decides much of what a policy finds: one whose
pretraining trained the map of one layer has a favourite. Results are kept as `miniature/study.py` says.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.flags import PageHelp
from groundscore.writing import write_text
from miniature.ablation_results import ANALYSED, QUICK, ROWS, STUDY
from miniature.study import add_study_arguments, check_study, run_study
from miniature.study_results import Results, StudyRow

STEPS, QUICK_STEPS = 200, 30
LIMIT, QUICK_LIMIT = 30, 10
SEEDS, QUICK_SEEDS = "0,1,2,3,4", "0"
DATA = "--refer_seg_data refcoco||grefcoco"


def main(argv: Sequence[str]) -> None:
    """Trains and audits the rows that have no result yet, and writes the page."""
    options = build_parser().parse_args(argv)
    for name, quick, usual in (
        ("steps", QUICK_STEPS, STEPS),
        ("limit", QUICK_LIMIT, LIMIT),
        ("seeds", QUICK_SEEDS, SEEDS),
    ):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    seeds = check_study(options, "ablation.sh")
    bases = named_bases(options)
    rows = study_rows(options, list(bases))

    def write(results: Results) -> None:
        from miniature.ablation_page import page
        from miniature.ablation_plots import draw

        options.out.parent.mkdir(parents=True, exist_ok=True)
        images = draw(results, rows, options.out.with_suffix(""))
        write_text(options.out, page(results, rows, images, options))

    run_study("ablation", rows, seeds, options, bases, write)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `python -m miniature.ablation`."""
    parser = argparse.ArgumentParser(prog="python -m miniature.ablation", description=__doc__, formatter_class=PageHelp)
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}; one seed, {QUICK_STEPS} steps")
    parser.add_argument("--rows", help=f"joined by commas, or all (default: {', '.join(STUDY)}): {names}")
    parser.add_argument("--bases", help="NAME=DIR joined by commas: several bases beside each other (default: --base)")
    add_study_arguments(parser, steps=STEPS, seeds=SEEDS, limit=LIMIT, runs="runs/ablation")
    parser.set_defaults(steps=None, seeds=None, limit=None, splits="||".join(ANALYSED))
    return parser


def named_bases(options: argparse.Namespace) -> dict[str, Path]:
    """The bases by name; one without a name where there is only `--base`."""
    if not options.bases:
        return {"": options.base}
    pairs = [part.partition("=") for part in options.bases.split(",")]
    if not all(name.isidentifier() and path for name, _, path in pairs) or len({p[0] for p in pairs}) < len(pairs):
        raise UserError(f"--bases {options.bases}: expected NAME=DIR joined by commas, each name once")
    return {name: Path(path) for name, _, path in pairs}


def study_rows(options: argparse.Namespace, bases: Sequence[str]) -> list[StudyRow]:
    """The chosen rows on every base, row by row, so that the bases of a row run one after the other."""
    known = [row.name for row in ROWS]
    names = QUICK if options.quick else STUDY
    if options.rows:
        names = known if options.rows == "all" else [name.strip() for name in options.rows.split(",")]
    unknown = set(names) - set(known)
    if unknown:
        raise UserError(f"--rows: there is no {', '.join(sorted(unknown))}; --help lists them")
    return [on_base(row, base) for row in ROWS if row.name in names for base in bases]


def on_base(row: StudyRow, base: str) -> StudyRow:
    """The row on a base; its name and title tell the base where it has a name."""
    flags = f"{DATA} {row.flags}"
    if not base:
        return replace(row, flags=flags)
    return replace(row, name=f"{base}.{row.name}", title=f"{base}: {row.title}", flags=flags, base=base)


if __name__ == "__main__":
    run_main(main)
