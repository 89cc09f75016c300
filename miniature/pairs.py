"""Compare backbones and mask decoders under one budget: `python -m miniature.pairs --help`.

Makes one page of the results of several calls of `python -m miniature.compare`, each with another pair of a backbone
and a mask decoder; of these it takes LISA and UGround on all eight families. It trains nothing.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.flags import PageHelp
from groundscore.writing import write_text
from miniature.compare import FULL
from miniature.compare_page import findings, titles
from miniature.study_results import COLUMNS, LEVEL, StudyRow, queries_table, read_results

SYSTEMS = ("LISA", "UGround")
SHIPPED = ("six_systems", "pairs/llava_sam2", "pairs/qwen3_vl_sam", "six_systems_qwen3_vl")  # in docs/reports
PRETRAINED_TOGETHER = ("llava+sam", "qwen3_vl+sam2")
QUESTIONS = {  # what differs, and the heading that it is under
    "both": "Both, the method alike",
    "backbone": "The backbone, the rest alike",
    "decoder": "The decoder, the rest alike",
    "method": "The method, the rest alike",
}
_APART = """A decoder of the other base meets the backbone for the first time in this training, as published parts do.
"""


@dataclass(frozen=True)
class Pair:
    """A backbone and a mask decoder, and what `miniature.compare` found with them.

    base: as `miniature.programs.pair_of` names it; directory: its --runs; settings: what its numbers depend on beside
    the base; results: by system.
    """

    base: str
    directory: Path
    settings: dict[str, str]
    results: dict[str, dict[int, dict]]

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return " + ".join(titles(self.base))

    def name_of(self, system: str) -> str:
        """The name of a system's row with this pair."""
        return f"{system}.{self.base}"


def main(argv: Sequence[str]) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(prog="python -m miniature.pairs", description=__doc__, formatter_class=PageHelp)
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[Path("docs/reports") / name for name in SHIPPED],
        metavar="DIR",
        help="a --runs of miniature.compare for each pair (default: the shipped results)",
    )
    parser.add_argument("--steps", type=int, default=200, help="of the runs (200)")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    pairs = [read_pair(directory, options.steps) for directory in options.runs]
    check_pairs(pairs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, page(pairs, options.steps))
    print(f"[pairs] {options.out}")


def read_pair(directory: Path, steps: int) -> Pair:
    """The results of `SYSTEMS` on everything in a directory; raises `UserError` where there is none."""
    found = read_results(directory / f"{steps}_steps", [StudyRow(f"{one}.{FULL}", one, one) for one in SYSTEMS])
    if not found:
        raise UserError(
            f"{directory}/{steps}_steps holds no result of {' or '.join(SYSTEMS)} on everything; make one with python "
            f"-m miniature.compare --systems {','.join(SYSTEMS)} --diets {FULL} --runs {directory}"
        )
    first = next(iter(next(iter(found.values())).values()))
    settings = dict(first["settings"])
    base = settings.pop("base", None)
    if base is None:
        raise UserError(f"{directory}/{steps}_steps: its results do not say from which base; make them again")
    return Pair(base, directory, settings, {name.partition(".")[0]: runs for name, runs in found.items()})


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Raises `UserError` for a pair that is there twice, or was scored in another way than the first."""
    first = pairs[0]
    for pair in pairs[1:]:
        differ = [name for name, value in first.settings.items() if pair.settings.get(name) != value]
        if differ:
            raise UserError(
                f"{pair.directory} was made with another --{', --'.join(differ)} than {first.directory}: they do not "
                "belong in one table"
            )
    for one, other in combinations(pairs, 2):
        if one.base == other.base:
            raise UserError(f"{one.directory} and {other.directory} are both of {one.base}: each pair once")


def claims(pairs: Sequence[Pair]) -> dict[str, list[tuple[str, str, str]]]:
    """What is compared, by what differs: (row, other, description). A later pair is compared with an earlier one."""
    asked: dict[str, list[tuple[str, str, str]]] = {differs: [] for differs in QUESTIONS}
    for other, one in combinations(pairs, 2):
        backbone, decoder = (
            mine != yours
            for mine, yours in zip(one.base.partition("+")[::2], other.base.partition("+")[::2], strict=True)
        )
        asked["both" if backbone and decoder else "backbone" if backbone else "decoder"] += [
            (one.name_of(system), other.name_of(system), f"{system}: {one.title} against {other.title}")
            for system in SYSTEMS
        ]
    lisa, uground = SYSTEMS
    asked["method"] = [
        (pair.name_of(uground), pair.name_of(lisa), f"{pair.title}: {uground} against {lisa}") for pair in pairs
    ]
    return asked


def page(pairs: Sequence[Pair], steps: int) -> str:
    """Differences by question, what they do not show, and tables by kind of query."""
    rows = [StudyRow(pair.name_of(system), f"{system}, {pair.title}", system) for system in SYSTEMS for pair in pairs]
    results = {pair.name_of(system): runs for pair in pairs for system, runs in pair.results.items()}
    seeds = sorted({seed for runs in results.values() for seed in runs})
    settings = pairs[0].settings
    told = "\n\n".join(
        f"## {QUESTIONS[differs]}\n\n{findings(results, asked)}" for differs, asked in claims(pairs).items() if asked
    )
    apart = _APART if any(pair.base not in PRETRAINED_TOGETHER for pair in pairs) else ""
    parts = "\n".join(f"- {pair.title}: `{pair.directory}`" for pair in pairs)
    return f"""# Backbone, decoder or method?

LISA and UGround with {len(pairs)} pairs of a backbone and a mask decoder on the miniature, each trained on all eight
families for {steps} steps of {settings["batch_size"]} images, with LoRA and the same flags; scored on the first
{settings["limit"]} images of each split; means over seeds ({", ".join(map(str, seeds))}) ± standard deviation.

Differences of generated answers in percent, paired by seed, with {LEVEL:.0%} intervals by Student's t; kinds of query
whose interval has 0 in it are not decided. One in twenty is decided by chance.

{told}

## What this does not show

The two shipped bases were pretrained apart, with other numbers of steps ([LLaVA](../miniature/weights/README.md),
[Qwen3-VL](../miniature/weights_qwen3_vl/README.md)): a difference between backbones is one between these two, at their
widths, and says nothing of LLaVA-1.5 and Qwen3-VL at 7B. Both have seen UGround's prompts, so that their decoders know
similarity maps, without which LISA has to do; from a base without maps the advantage may be another.
{apart}Images are as small as the encoders like them: what tiles, dynamic resolution and SAM 2's finer features are
worth on photographs is not seen.

{COLUMNS}

## Answers that the system writes itself

{queries_table(results, rows, "generated")}

## Given answers

{queries_table(results, rows, "given")}

The results are in:

{parts}

Those of another pair come from
`python -m miniature.compare --systems {",".join(SYSTEMS)} --diets {FULL} --base BASE --decoder WEIGHTS --runs DIR`, the
page from `python -m miniature.pairs DIR ... --out PAGE`.
"""


if __name__ == "__main__":
    run_main(main)
