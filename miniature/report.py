"""Put the quickstart's results together: `python -m miniature.report --help`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.reading import read_json
from groundscore.scoring import percent
from groundscore.writing import write_json

PROTOCOLS = ("generated", "given")
METRICS = ("gIoU", "cIoU", "N_acc", "T_acc")  # the last two where a split asks for what is not there


def main(argv: Sequence[str]) -> None:
    """Writes the report and prints its scores."""
    parser = argparse.ArgumentParser(prog="python -m miniature.report", description=__doc__)
    parser.add_argument("--trained", type=Path, required=True, help="report of eval.py after training")
    parser.add_argument("--untrained", type=Path, required=True, help="report of eval.py before training")
    parser.add_argument("--seconds", nargs="*", default=[], metavar="STAGE=N", help="how long each stage took")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    trained, untrained = _read(arguments.trained), _read(arguments.untrained)
    report = {
        "splits": _scores(trained),
        "untrained": _scores(untrained),
        "layers": trained["layers"],
        "seconds": _seconds(arguments.seconds),
    }
    write_json(arguments.out, report)
    print(describe(report))


def describe(report: dict) -> str:
    """The scores as a table, before and after training."""
    lines = [f"{'split':<24}{'answers':<12}{'':<12}" + "".join(f"{metric:>7}" for metric in METRICS)]
    for split, protocols in report["splits"].items():
        for protocol, scores in protocols.items():
            for name, values in (("untrained", report["untrained"][split][protocol]), ("trained", scores)):
                shown = (percent(values[metric]) for metric in METRICS if metric in values)
                lines.append(f"{split:<24}{protocol:<12}{name:<12}" + "".join(f"{value:>7}" for value in shown))
    layers = ", ".join(f"{layer}: {count}" for layer, count in report["layers"].items() if count)
    lines.append(f"layers chosen for the masks: {layers or 'none'}")
    lines.append("seconds: " + ", ".join(f"{stage} {value}" for stage, value in report["seconds"].items()))
    return "\n".join(lines)


def _read(path: Path) -> dict:
    return read_json(path, missing="eval.py writes it")


def _scores(report: dict) -> dict:
    """split -> protocol -> those of `METRICS` that it has."""
    return {
        split: {
            protocol: {metric: protocols[protocol][metric] for metric in METRICS if metric in protocols[protocol]}
            for protocol in PROTOCOLS
            if protocol in protocols
        }
        for split, protocols in report["splits"].items()
    }


def _seconds(pairs: Sequence[str]) -> dict[str, int]:
    seconds = {}
    for pair in pairs:
        stage, _, value = pair.partition("=")
        if not value.isdigit():
            raise UserError(f"--seconds {pair}: expected STAGE=N with a whole number")
        seconds[stage] = int(value)
    return seconds


if __name__ == "__main__":
    run_main(main)
