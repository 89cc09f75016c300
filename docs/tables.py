"""Fills the tables of README.md and docs/*.md: measured numbers from docs/reports, metrics from their declarations.

    python docs/tables.py                                              after a report was edited
    python docs/tables.py --quickstart runs/quickstart                 takes the report and contact sheet of a run first

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; `TABLES` has a function for each name.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPORTS = DOCS / "reports"
PAGES = (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")))
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def quickstart() -> list[list[str]]:
    """Rows of the quickstart's scores, one per split, from the report that `miniature.report` writes."""
    report = _read("quickstart")
    rows = [
        [
            "held-out split (gIoU / cIoU, percent)",
            "untrained, generated",
            "trained, generated",
            "untrained, given",
            "trained, given",
        ]
    ]
    for split, trained in report["splits"].items():
        cells = [
            _scores(scores[answer])
            for answer in ("generated", "given")
            for scores in (report["untrained"][split], trained)
        ]
        rows.append([split.replace("|", "\\|"), *cells])
    return rows


def speed() -> list[list[str]]:
    """Rows of the cost relative to the original implementation, one per kind of work."""
    rows = [["relative to the original (to the original with SDPA)", "CPU time", "memory", "FLOPs"]]
    for work, ratios in _read("speed").items():
        cells = [_ratio(ratios.get(kind, [])) for kind in ("time", "memory")]
        rows.append([work, *cells, f"{ratios['flops']:g}"])
    return rows


def metrics() -> list[list[str]]:
    """Rows of the metrics' definitions, in the order of reports."""
    from groundscore.scoring.metrics import ALL_BUT_MUSE, KINDS, METRICS

    groups = {frozenset(KINDS): "all", frozenset(ALL_BUT_MUSE): "all but MUSE"}
    rows = [["Key", "Scored as", "Definition"]]
    for one in METRICS:
        names = ", ".join(KIND_NAMES[kind] for kind in one.kinds)
        rows.append([f"`{one.name}`", groups.get(frozenset(one.kinds), names), one.definition])
    return rows


KIND_NAMES = {"plain": "plain", "gres": "GRES", "false_premise": "false premise", "robust": "robust", "muse": "MUSE"}
TABLES: dict[str, Callable[[], list[list[str]]]] = {"quickstart": quickstart, "speed": speed, "metrics": metrics}


def fill(text: str) -> str:
    """Returns `text` with every marked table filled again. Raises KeyError for a name without a table."""

    def table(match: re.Match) -> str:
        header, *rows = TABLES[match[2]]()
        lines = [header, ["---"] * len(header), *rows]
        return match[1] + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + match[3]

    return _TABLE.sub(table, text)


def main() -> None:
    """Fills the pages in place."""
    parser = argparse.ArgumentParser(description="Fill the measured tables of README.md and docs/ from docs/reports.")
    parser.add_argument("--quickstart", type=Path, metavar="RUN", help="directory of a quickstart run to take over")
    run = parser.parse_args().quickstart
    if run is not None:
        shutil.copyfile(run / "report.json", REPORTS / "quickstart.json")
        shutil.copyfile(run / "contact_sheet.png", DOCS / "quickstart.png")
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")


def _read(name: str) -> dict:
    return json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))


def _scores(scores: dict) -> str:
    from groundscore.scoring import percent

    return " / ".join(percent(scores[metric]) for metric in ("gIoU", "cIoU"))


def _ratio(values: list[float]) -> str:
    """0.33 (0.36); the second value is the comparison with SDPA."""
    return "" if not values else f"{values[0]:g}" + "".join(f" ({value:g})" for value in values[1:])


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    main()
