"""The command `groundscore`: scores of predictions, comparisons of reports, and what is on disk.

Each of its commands declares its flags and what it does in one function pair, registered in `COMMANDS`.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundscore.annotations.bad_entries import DEFAULT_SHARE, describe_bad_samples
from groundscore.benchmark import Benchmark, load_all
from groundscore.data_root import check_data_root
from groundscore.errors import UserError, run_main
from groundscore.exchange import FORMATS
from groundscore.exchange.converting import add_convert_flags, convert
from groundscore.exchange.counting import count_predictions
from groundscore.flags import UserParser, add_counting_flags, add_reading_flags, count, positive
from groundscore.names import did_you_mean, split_names
from groundscore.progress import ProgressBar
from groundscore.scoring import UNITS
from groundscore.scoring.comparison import SAMPLES, compare_reports
from groundscore.scoring.report import Report, place_for_report
from groundscore.scoring.scorer import report_of
from groundscore.splits import BENCHMARKS, EvaluationItem, LeftOut, OpenSplit, unnumbered_entries
from groundscore.terminal import fitted, terminal_width, two_columns, wrapped
from groundscore.writing import make_directory, write_lines

HELP = """usage: groundscore COMMAND [-h] …

Scores of segmentation masks on the benchmarks of the field, whatever model predicted them.

{commands}

`groundscore COMMAND --help` lists its flags. Exit codes: 0 done, 1 something could not be read, 2 an error (one line).
"""


@dataclass(frozen=True)
class Command:
    """A command. help: one line. add_flags: declares its flags. run: does it; returns the exit code."""

    help: str
    add_flags: Callable[[UserParser], None]
    run: Callable[[Namespace, Sequence[str]], int]


# --- score and gallery ------------------------------------------------------------------------------------------------


def _add_data_flags(parser: UserParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("dataset"), metavar="DIR", help="root of all data sets")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N images of each split only")
    parser.add_argument(
        "--skip_bad_samples",
        type=float,
        default=DEFAULT_SHARE,
        metavar="R",
        help="share of images without a usable file or mask that may be left out; 0 stops at the first",
    )


def _add_prediction_flags(parser: UserParser) -> None:
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="file or folder of predicted masks")
    parser.add_argument(
        "--split", required=True, metavar="SPLITS", help='splits joined by ||, such as "ReasonSeg|val||refcoco|unc|val"'
    )
    parser.add_argument(
        "--format",
        choices=[one.name for one in FORMATS],
        help="format of PREDICTIONS (default: what it looks like): "
        + "; ".join(f"{one.name}: {one.help}" for one in FORMATS),
    )
    add_reading_flags(parser)
    _add_data_flags(parser)


def _add_score_flags(parser: UserParser) -> None:
    _add_prediction_flags(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="write the report, its table and the counts of all expressions"
    )
    parser.add_argument("--bootstrap", type=count, default=1000, metavar="N", help="resamples for intervals; 0: none")
    add_counting_flags(parser)
    parser.add_argument(
        "--answer",
        choices=("given", "generated"),
        help="how the model was asked: given, the number of targets was forced on it; generated, it wrote the answer "
        "(default: what the predictions say)",
    )
    parser.add_argument(
        "--selected_on",
        metavar="SPLIT",
        help="splits, joined by ||, by whose scores the model was selected; the report says so",
    )
    parser.add_argument("--gallery", action="store_true", help="also draw best, worst and random cases (HTML)")


def _score(flags: Namespace, argv: Sequence[str]) -> int:
    if flags.gallery and not flags.output:
        raise UserError("--gallery needs --output FILE.json: the page is written beside it")
    files = place_for_report(flags.output) if flags.output else None
    benchmarks, report = _counted(flags, argv, keep_masks=flags.gallery)
    print(fitted(str(report), terminal_width()))
    if files:
        report.write(files, report.table())
        print(f"report: {files.report}")
        if flags.gallery:
            report.write_gallery(files.gallery, benchmarks)
            print(f"gallery: {files.gallery}")
        if told := describe_bad_samples(files.bad_samples):
            print(f"bad samples: {told}")
    return int(report.failed)


def _counted(flags: Namespace, argv: Sequence[str], *, keep_masks: bool) -> tuple[dict[str, Benchmark], Report]:
    """Counts the predictions that the flags name; returns the benchmarks and the report."""
    benchmarks = load_all(flags.split, flags.data, limit=flags.limit, skip_bad_samples=flags.skip_bad_samples)
    bars = {spec: ProgressBar(spec) for spec in benchmarks}
    scorers = count_predictions(
        flags.predictions,
        benchmarks,
        format=flags.format,
        ids=flags.ids,
        threshold=flags.threshold,
        keep_masks=keep_masks,
        progress=lambda spec, done, total: bars[spec].show(done, total),
    )
    return benchmarks, report_of(
        scorers,
        gres_reference=getattr(flags, "gres_reference", False),
        unit=getattr(flags, "unit", UNITS[0]),
        answer=getattr(flags, "answer", None),
        bootstrap=getattr(flags, "bootstrap", 0),
        selected_on=getattr(flags, "selected_on", None),
        predictions={"file": str(flags.predictions)},
        command=["groundscore", *argv],
    )


def _add_gallery_flags(parser: UserParser) -> None:
    _add_prediction_flags(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.html", help="the page to write")


def _draw_gallery(flags: Namespace, argv: Sequence[str]) -> int:
    if flags.output.suffix not in (".html", ".htm"):
        raise UserError(f"--output {flags.output}: name a .html file")
    make_directory(flags.output.parent)
    benchmarks, report = _counted(flags, argv, keep_masks=True)
    report.write_gallery(flags.output, benchmarks)
    print(f"gallery: {flags.output}")
    return 0


# --- compare ----------------------------------------------------------------------------------------------------------


def _add_compare_flags(parser: UserParser) -> None:
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT", help="two or more, of the same expressions")
    parser.add_argument("--samples", type=positive, default=SAMPLES, metavar="N", help="resamples of the images")
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="of the resamples")


def _compare(flags: Namespace, argv: Sequence[str]) -> int:
    if len(flags.reports) < 2:
        raise UserError("name two reports or more, such as: groundscore compare mine.json theirs.json")
    print(fitted(compare_reports(*flags.reports, samples=flags.samples, seed=flags.seed), terminal_width()))
    return 0


# --- what is on disk --------------------------------------------------------------------------------------------------


def _add_inspect_flags(parser: UserParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="root of all data sets")
    parser.add_argument(
        "--split", metavar="SPLITS", help="these splits only, joined by || (default: all that are known)"
    )
    parser.add_argument("--decode", action="store_true", help="read every image and mask, and name those that are bad")


def _inspect(flags: Namespace, argv: Sequence[str]) -> int:
    """Prints a line for every split that is there; 1 where one that was named, or an entry of one, cannot be read."""
    check_data_root(flags.data, "--data")
    bad = found = 0
    own = [f"custom|{path.stem}" for path in sorted((flags.data / "custom").glob("*.jsonl"))]
    for spec in split_names(flags.split) if flags.split else [*BENCHMARKS, *own]:
        try:
            (benchmark,) = load_all(spec, flags.data, skip_bad_samples=0.99).values()
        except UserError as error:
            if flags.split:
                print(f"{spec}: {error}")
                bad += 1
            continue
        found += 1
        left_out = unnumbered_entries(benchmark.items)
        if flags.decode:
            bar = ProgressBar(spec)
            bar.show(0, len(benchmark))
            for number in range(len(benchmark)):
                item = benchmark.read(number)
                left_out += [item] if isinstance(item, LeftOut) else []
                bar.show(number + 1, len(benchmark))
        expressions = sum(len(item.expressions) for item in benchmark.undecoded())
        print(f"{spec}: {len(benchmark)} image{'s' * (len(benchmark) != 1)}, {expressions} expressions")
        for one in left_out:
            print(f"  cannot be used: {one.reason}")
        bad += len(left_out)
    if not found and not flags.split:
        raise UserError(f"{flags.data} has none of the known splits; see `groundscore score --help` for their names")
    return int(bad > 0)


def _add_export_flags(parser: UserParser) -> None:
    parser.add_argument("split", metavar="SPLITS", help='splits joined by ||, such as "refcoco|unc|testA"')
    parser.add_argument(
        "--output", type=Path, metavar="FILE.jsonl", help="write to this file (default: standard output)"
    )
    _add_data_flags(parser)


def _export(flags: Namespace, argv: Sequence[str]) -> int:
    benchmarks = load_all(flags.split, flags.data, limit=flags.limit, skip_bad_samples=flags.skip_bad_samples)
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for split in benchmarks.values() for line in item_lines(split))
    if flags.output is None:
        sys.stdout.writelines(lines)
        return 0
    make_directory(flags.output.parent)
    write_lines(flags.output, lines)
    print(f"items: {flags.output}", file=sys.stderr)
    return 0


def item_lines(split: OpenSplit) -> Iterator[dict]:
    """Yields what a model needs of every expression: with "present" and "mask" added each is a line of predictions."""
    for item in split.undecoded():
        for index, text in enumerate(item.expressions):
            yield {
                "split": split.spec,
                "image": item.path_below(split.root),
                "expression": index,
                "id": item.expression_ids[index],
                **({} if item.index is None else {"index": item.index}),
                "text": text,
                "prompt": item.prompts[index],
                **_own_ids(item, index),
            }


def _own_ids(item: EvaluationItem, index: int) -> dict[str, int]:
    """The data's own ids of an expression, where it has them."""
    ids = {} if item.ref_ids[index] < 0 else {"ref_id": item.ref_ids[index]}
    return ids | ({"sentence_id": item.sentence_ids[index]} if item.sentence_ids else {})


# --- layout -----------------------------------------------------------------------------------------------------------


def _no_flags(parser: UserParser) -> None:
    """It has none."""


def _print_layout(flags: Namespace, argv: Sequence[str]) -> int:
    print(Path(__file__).with_name("DATA.md").read_text(encoding="utf-8"), end="")
    return 0


# --- the program ------------------------------------------------------------------------------------------------------

COMMANDS = {
    "score": Command("score predictions on benchmarks, and write a report", _add_score_flags, _score),
    "compare": Command("compare two or more reports, image by image", _add_compare_flags, _compare),
    "inspect": Command("list the splits that a data root has", _add_inspect_flags, _inspect),
    "layout": Command("say where the files of each data set go, and what your own look like", _no_flags, _print_layout),
    "export-items": Command("list the images, expressions and ids of splits as JSON lines", _add_export_flags, _export),
    "convert": Command("bring own data in, and own data or predictions out to other tools", add_convert_flags, convert),
    "gallery": Command("draw best, worst and random predictions as one page", _add_gallery_flags, _draw_gallery),
}


def main(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        width = terminal_width()
        listed = two_columns([(name, one.help) for name, one in COMMANDS.items()], width)
        print(wrapped(HELP, width).format(commands=listed), end="")
        return 0
    name, *rest = argv
    command = COMMANDS.get(name.replace("_", "-"))
    if command is None:
        raise UserError(
            f"unknown command {name!r}; there are {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}\n"
            "`groundscore --help` says what they do"
        )
    parser = UserParser(prog=f"groundscore {name}", description=command.help[0].upper() + command.help[1:] + ".")
    command.add_flags(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return command.run(parser.parse(rest), argv)


def run() -> None:
    """The entry point of the installed command."""
    run_main(main)
