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
from miniature.compare_page import BACKBONE_TITLES, DECODER_TITLES, findings
from miniature.study_results import COLUMNS, LEVEL, Results, StudyRow, queries_table, read_results

SYSTEMS = ("LISA", "UGround")
PAIRS = (
    "llava+sam=docs/reports/six_systems",
    "llava+sam2=docs/reports/pairs/llava_sam2",
    "qwen3_vl+sam=docs/reports/pairs/qwen3_vl_sam",
    "qwen3_vl+sam2=docs/reports/six_systems_qwen3_vl",
)
PRETRAINED_TOGETHER = (("llava", "sam"), ("qwen3_vl", "sam2"))
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
    """A backbone and a mask decoder by their names, and where the results of `miniature.compare` with them are."""

    backbone: str
    decoder: str
    results: Path

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{BACKBONE_TITLES[self.backbone]} + {DECODER_TITLES[self.decoder]}"

    def name_of(self, system: str) -> str:
        """The name of a system's row with this pair."""
        return f"{system}.{self.backbone}.{self.decoder}"


def main(argv: Sequence[str]) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(prog="python -m miniature.pairs", description=__doc__, formatter_class=PageHelp)
    parser.add_argument(
        "pairs",
        nargs="*",
        default=PAIRS,
        metavar="BACKBONE+DECODER=DIR",
        help="a --runs of miniature.compare with this pair (default: the shipped results)",
    )
    parser.add_argument("--steps", type=int, default=200, help="of the runs (200)")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    pairs = [parse_pair(text) for text in options.pairs]
    if len({(pair.backbone, pair.decoder) for pair in pairs}) < len(pairs):
        raise UserError(f"{' '.join(options.pairs)}: each pair once")
    rows = [StudyRow(pair.name_of(system), f"{system}, {pair.title}", system) for system in SYSTEMS for pair in pairs]
    results = read_pairs(pairs, options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, page(results, rows, pairs, options.steps))
    print(f"[pairs] {options.out}")


def parse_pair(text: str) -> Pair:
    """Reads `BACKBONE+DECODER=DIR`; raises `UserError` where a name is not one of the miniature's."""
    names, _, directory = text.partition("=")
    backbone, _, decoder = names.partition("+")
    if backbone not in BACKBONE_TITLES or decoder not in DECODER_TITLES or not directory:
        raise UserError(
            f"{text}: expected BACKBONE+DECODER=DIR, with one of {', '.join(BACKBONE_TITLES)} and one of "
            f"{', '.join(DECODER_TITLES)}"
        )
    return Pair(backbone, decoder, Path(directory))


def read_pairs(pairs: Sequence[Pair], steps: int) -> Results:
    """The results of `SYSTEMS` with all pairs; raises `UserError` where one has none, or was made otherwise."""
    found: Results = {}
    settings: dict[Path, dict] = {}
    for pair in pairs:
        directory = pair.results / f"{steps}_steps"
        own = read_results(directory, [StudyRow(f"{system}.{FULL}", system, system) for system in SYSTEMS])
        if not own:
            raise UserError(
                f"{directory} holds no result of {' or '.join(SYSTEMS)} on everything; make one with python -m "
                f"miniature.compare --systems {','.join(SYSTEMS)} --diets {FULL} --runs {pair.results}"
            )
        for system in SYSTEMS:
            if runs := own.get(f"{system}.{FULL}"):
                found[pair.name_of(system)] = runs
                settings[pair.results] = next(iter(runs.values()))["settings"]
    first, *others = settings
    for path in others:
        differ = [name for name, value in settings[first].items() if settings[path].get(name) != value]
        if differ:
            raise UserError(f"{path} was made with another --{', --'.join(differ)} than {first}: no table of both")
    return found


def claims(pairs: Sequence[Pair]) -> dict[str, list[tuple[str, str, str]]]:
    """What is compared, by what differs: (row, other, description). A later pair is compared with an earlier one."""
    asked: dict[str, list[tuple[str, str, str]]] = {differs: [] for differs in QUESTIONS}
    for other, one in combinations(pairs, 2):
        differ = [part for part in ("backbone", "decoder") if getattr(one, part) != getattr(other, part)]
        asked["both" if len(differ) == 2 else differ[0]] += [
            (one.name_of(system), other.name_of(system), f"{system}: {one.title} against {other.title}")
            for system in SYSTEMS
        ]
    lisa, uground = SYSTEMS
    asked["method"] = [
        (pair.name_of(uground), pair.name_of(lisa), f"{pair.title}: {uground} against {lisa}") for pair in pairs
    ]
    return asked


def page(results: Results, rows: Sequence[StudyRow], pairs: Sequence[Pair], steps: int) -> str:
    """Differences by question, what they do not show, and tables by kind of query."""
    seeds = sorted({seed for runs in results.values() for seed in runs})
    settings = next(iter(next(iter(results.values())).values()))["settings"]
    told = "\n\n".join(
        f"## {QUESTIONS[differs]}\n\n{findings(results, asked)}" for differs, asked in claims(pairs).items() if asked
    )
    apart = _APART if any((pair.backbone, pair.decoder) not in PRETRAINED_TOGETHER for pair in pairs) else ""
    parts = "\n".join(f"- {pair.title}: `{pair.results}`" for pair in pairs)
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
page from `python -m miniature.pairs BACKBONE+DECODER=DIR ... --out PAGE`.
"""


if __name__ == "__main__":
    run_main(main)
