"""Fills the tables of README.md and docs/*.md: measured numbers from docs/reports, metrics from their declarations.

    python docs/tables.py                                              after a report was edited
    python docs/tables.py --quickstart runs/quickstart                 takes the report and contact sheet of a run first
    python docs/tables.py --quickstart_qwen3_vl runs/quickstart        takes the report of a run with that backbone
    python docs/tables.py --unified runs/miniature_unified             takes the scores and contact sheet of that run

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; `TABLES` has a function for each name.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPORTS = DOCS / "reports"
ROOT = DOCS.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "miniature").glob("weights*/README.md")), *sorted(DOCS.glob("*.md")))
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def quickstart(name: str = "quickstart") -> list[list[str]]:
    """Rows of a quickstart's scores, one per split, from the report that `miniature.report` writes."""
    report = _read(name)
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


OWN_SCORES = ("N_acc", "T_acc", "See", "Segment", "rIoU", "mRR")


def unified() -> list[list[str]]:
    """Rows of what the unified model scores on each split, then on classes and on questions in words."""
    from groundscore.scoring import percent

    report = _read("unified")
    rows = [["held-out", "images", "asked", "gIoU", "cIoU", "of its own"]]
    for split, scores in report["splits"].items():
        own = ", ".join(f"{name} {percent(scores[name])}" for name in OWN_SCORES if name in scores)
        counts = [str(scores[name]) for name in ("images", "expressions")]
        rows.append([split.replace("|", "\\|"), *counts, percent(scores["gIoU"]), percent(scores["cIoU"]), own])
    classes, words = report["classes"]["all"], report["words"]
    rows.append(["semantic classes", "new", str(classes["asked"]), percent(classes["gIoU"]), "", ""])
    right = {kind: percent(one["right"] / one["asked"]) for kind, one in words.items()}
    kinds = ", ".join(f"{kind} {share}" for kind, share in right.items() if kind != "all")
    rows.append(["questions in words", "new", str(words["all"]["asked"]), "", "", f"right {right['all']}: {kinds}"])
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
TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "quickstart": quickstart,
    "quickstart_qwen3_vl": partial(quickstart, "quickstart_qwen3_vl"),
    "unified": unified,
    "speed": speed,
    "metrics": metrics,
}


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
    parser.add_argument("--quickstart_qwen3_vl", type=Path, metavar="RUN", help="one with --backbone qwen3_vl")
    parser.add_argument("--unified", type=Path, metavar="RUN", help="run of train_unified.sh to take over")
    options = parser.parse_args()
    if options.quickstart is not None:
        shutil.copyfile(options.quickstart / "report.json", REPORTS / "quickstart.json")
        shutil.copyfile(options.quickstart / "contact_sheet.png", DOCS / "quickstart.png")
    if options.quickstart_qwen3_vl is not None:
        shutil.copyfile(options.quickstart_qwen3_vl / "report.json", REPORTS / "quickstart_qwen3_vl.json")
    if options.unified is not None:
        _take_unified(options.unified)
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")


def _read(name: str) -> dict:
    return json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))


def _take_unified(run: Path) -> None:
    """Keeps the scores that `unified` shows, and the contact sheet."""
    scored = json.loads((run / "held_out.json").read_text(encoding="utf-8"))["splits"]
    shown = ("images", "expressions", "gIoU", "cIoU", *OWN_SCORES)
    report = {
        "splits": {
            split: {name: scores[name] for name in shown if name in scores}
            for split, scores in scored.items()  # of one answer alone, the generated
        }
    }
    for part, names in (("classes", ("asked", "gIoU")), ("words", ("asked", "right"))):
        found = json.loads((run / f"{part}.json").read_text(encoding="utf-8"))
        report[part] = {kind: {name: one[name] for name in names} for kind, one in found.items()}
    (REPORTS / "unified.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(run / "contact_sheet.png", DOCS / "unified.png")


def _scores(scores: dict) -> str:
    from groundscore.scoring import percent

    ious = " / ".join(percent(scores[metric]) for metric in ("gIoU", "cIoU"))
    told = ", ".join(f"{metric} {percent(scores[metric])}" for metric in ("N_acc", "T_acc") if metric in scores)
    return f"{ious} ({told})" if told else ious


def _ratio(values: list[float]) -> str:
    """0.33 (0.36); the second value is the comparison with SDPA."""
    return "" if not values else f"{values[0]:g}" + "".join(f" ({value:g})" for value in values[1:])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
